// How the sectors of a LUKS volume are encrypted: the cipher, its mode, and where each sector's initial
// vector comes from. Any thread; none of this needs the library. Source: "LUKS On-Disk Format
// Specification" 1.2.3, the registry of ciphers and hashes; for the vectors the kernel's dm-crypt, of which
// these are plain, plain64 and essiv.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ostler::block {

struct LuksBlockCipher {
  std::string_view name;    // in options: "aes-256"
  std::string_view family;  // in headers: "aes"
  int number;               // libgcrypt's
  uint32_t key_bytes;
  uint32_t block_bytes;  // also the length of a vector
};

struct LuksAlgorithm {
  std::string cipher = "aes-256";
  std::string mode = "xts";
  std::string ivgen = "plain64";
  std::string ivgen_hash;  // essiv's; a header may name one for the others, which do not use it

  // What a header says, which is hostile. Nothing: one of its names is unknown, or the key has another
  // length.
  static std::optional<LuksAlgorithm> parse(std::string_view family, std::string_view mode,
                                            uint32_t key_bytes);
  // Of known names: why they do not go together, and what does. Empty: they do.
  std::string problem() const;

  // The rest needs an algorithm without a problem.
  const LuksBlockCipher& block_cipher() const;
  const LuksBlockCipher& vector_cipher() const;  // essiv's: its key is the hash of the volume's
  uint32_t key_bytes() const;                    // xts has two keys, one after the other
  std::string header_cipher() const { return std::string(block_cipher().family); }
  std::string header_mode() const;
};

// The names that there are, as options and `qemu-img` have them.
const std::vector<std::string_view>& luks_cipher_names();
const std::vector<std::string_view>& luks_mode_names();
const std::vector<std::string_view>& luks_ivgen_names();
const std::vector<std::string_view>& luks_hash_names();
// libgcrypt's number; nothing: there is no such hash.
std::optional<int> luks_hash_number(std::string_view name);

}  // namespace ostler::block
