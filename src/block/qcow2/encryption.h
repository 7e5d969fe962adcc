// Encryption of guest data: LUKS, whose header lies in clusters of the image, and the method that older
// images have, for reading. Tables and compressed clusters are not encrypted.
// Source: qcow2.txt, "Full disk encryption header pointer" and "Data encryption".
#pragma once

#include <memory>
#include <mutex>
#include <span>

#include "block/formats/luks/luks_key.h"
#include "block/mutex.h"

namespace ostler::block::qcow2 {

// AES-128-CBC of sectors; the vector is the guest's sector number, the key the passphrase itself.
class LegacyCipher {
 public:
  static std::unique_ptr<LegacyCipher> make(const std::string& passphrase);  // null: the library has it not
  ~LegacyCipher();
  // In place; `data` is whole sectors. False: the library failed.
  bool decrypt(uint64_t sector, std::span<std::byte> data);

 private:
  explicit LegacyCipher(gcry_cipher_handle* handle) : handle_(handle) {}
  std::mutex mutex_;
  gcry_cipher_handle* const handle_;
};

struct Encryption {
  const Opener* opener = nullptr;        // knows passphrases; it outlives the nodes that it opened
  LuksHeader luks;                       // of method 2
  std::unique_ptr<LuksCipher> cipher;    // null: no passphrase was given
  std::unique_ptr<LegacyCipher> legacy;  // of method 1
  Mutex unaligned;                       // parts of sectors are read, changed and written by one at a time
  bool unlocked() const { return cipher != nullptr || legacy != nullptr; }
};

// The options "encrypt" of opening and creating an image.
struct EncryptOptions {
  std::string format;  // "luks", "aes" or "": as the image has it
  std::string secret;  // its name
};

}  // namespace ostler::block::qcow2
