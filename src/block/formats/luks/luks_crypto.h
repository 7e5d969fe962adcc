// What LUKS1 computes: keys from passphrases, keys spread over stripes, encrypted sectors.
// The algorithms are libgcrypt's. Any thread.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block/formats/luks/luks_header.h"

struct gcry_cipher_handle;

namespace ostler::block {

// Key bytes that are wiped when they are no longer needed.
class SecretBytes {
 public:
  explicit SecretBytes(size_t size = 0) : bytes_(size) {}
  explicit SecretBytes(const std::string& text) : bytes_(text.begin(), text.end()) {}
  SecretBytes(SecretBytes&&) = default;
  SecretBytes& operator=(SecretBytes&&) = default;
  ~SecretBytes();
  uint8_t* data() { return bytes_.data(); }
  const uint8_t* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::vector<uint8_t> bytes_;
};

// Loads the library and asks whether it has what `header` names: where FIPS 140 is the rule it lacks some.
// Before all else here. `name` begins the message.
Result<void> luks_available(const LuksHeader& header, const std::string& name);
// PBKDF2 (RFC 8018 §5.2) with HMAC of `hash`. The library may refuse: where FIPS 140 is the rule, short
// passphrases and salts, and few iterations.
Result<SecretBytes> luks_derive(const SecretBytes& passphrase, std::span<const uint8_t> salt,
                                uint32_t iterations, const std::string& hash, size_t key_bytes);
// The anti-forensic splitter (specification §2.4): a key as LuksHeader::kStripes stripes, and back.
SecretBytes luks_split(const SecretBytes& key, const std::string& hash);
SecretBytes luks_merge(const SecretBytes& stripes, const std::string& hash, size_t key_bytes);
// Iterations of luks_derive() that take about `milliseconds` here, 1000 at least.
Result<uint32_t> luks_iterations(const std::string& hash, size_t key_bytes, uint64_t milliseconds);
void luks_random(void* to, size_t bytes);

// Encryption of sectors of 512 bytes, by `algorithm` with the number of the sector.
class LuksCipher {
 public:
  LuksCipher(LuksAlgorithm algorithm, SecretBytes key);
  ~LuksCipher();
  // In place; `data` is whole sectors. False: the library failed.
  const SecretBytes& key() const { return key_; }
  bool encrypt(uint64_t sector, std::span<std::byte> data) { return run(sector, data, true); }
  bool decrypt(uint64_t sector, std::span<std::byte> data) { return run(sector, data, false); }

 private:
  struct Handles {
    gcry_cipher_handle* sectors = nullptr;
    gcry_cipher_handle* vectors = nullptr;  // essiv's
  };
  bool run(uint64_t sector, std::span<std::byte> data, bool encrypting);
  bool open(Handles& handles) const;
  static void close(const Handles& handles);
  // Tells the cipher where in the disk the next sector is.
  bool begin(const Handles& handles, uint64_t sector) const;

  const LuksAlgorithm algorithm_;
  const SecretBytes key_;
  const uint32_t vector_bytes_;
  std::mutex mutex_;
  std::vector<Handles> idle_;  // each is used by one thread at a time
};

}  // namespace ostler::block
