#include "block/formats/luks/luks_crypto.h"

#include <gcrypt.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/assert.h"

namespace ostler::block {
namespace {

// Once per process, before the first other call.
void need_library() {
  static const bool ready = [] {
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P) == 0) {
      gcry_check_version(nullptr);
      gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
      gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    }
    return true;
  }();
  static_cast<void>(ready);
}

int hash_number(const std::string& hash) {
  if (hash == "sha1") return GCRY_MD_SHA1;
  return hash == "sha512" ? GCRY_MD_SHA512 : GCRY_MD_SHA256;
}

// Each piece of the digest's length becomes its hash, numbered; the last one may be short.
void diffuse(std::vector<uint8_t>& block, int hash) {
  const size_t digest_bytes = gcry_md_get_algo_dlen(hash);
  std::vector<uint8_t> input, digest(digest_bytes);
  uint32_t number = 0;
  for (size_t at = 0; at < block.size(); at += digest_bytes, ++number) {
    const size_t piece = std::min(digest_bytes, block.size() - at);
    input.resize(4 + piece);
    store_be(input.data(), number);
    std::memcpy(input.data() + 4, block.data() + at, piece);
    gcry_md_hash_buffer(hash, digest.data(), input.data(), input.size());
    std::memcpy(block.data() + at, digest.data(), piece);
  }
}

// All stripes but the last, folded into one block.
std::vector<uint8_t> fold(const uint8_t* stripes, size_t key_bytes, int hash) {
  std::vector<uint8_t> block(key_bytes);
  for (uint32_t i = 0; i + 1 < LuksHeader::kStripes; ++i) {
    for (size_t j = 0; j < key_bytes; ++j) block[j] ^= stripes[i * key_bytes + j];
    diffuse(block, hash);
  }
  return block;
}

}  // namespace

SecretBytes::~SecretBytes() {
  if (!bytes_.empty()) explicit_bzero(bytes_.data(), bytes_.size());
}

SecretBytes luks_derive(const SecretBytes& passphrase, std::span<const uint8_t> salt, uint32_t iterations,
                        const std::string& hash, size_t key_bytes) {
  need_library();
  SecretBytes key(key_bytes);
  const gcry_error_t error =
      gcry_kdf_derive(passphrase.data(), passphrase.size(), GCRY_KDF_PBKDF2, hash_number(hash), salt.data(),
                      salt.size(), iterations, key.size(), key.data());
  ASSERT(error == 0, "the arguments are of the right kind");
  return key;
}

SecretBytes luks_split(const SecretBytes& key, const std::string& hash) {
  need_library();
  SecretBytes stripes(key.size() * LuksHeader::kStripes);
  const size_t last = stripes.size() - key.size();
  luks_random(stripes.data(), last);
  const std::vector<uint8_t> block = fold(stripes.data(), key.size(), hash_number(hash));
  for (size_t i = 0; i < key.size(); ++i) stripes.data()[last + i] = block[i] ^ key.data()[i];
  return stripes;
}

SecretBytes luks_merge(const SecretBytes& stripes, const std::string& hash, size_t key_bytes) {
  need_library();
  ASSERT(stripes.size() == key_bytes * LuksHeader::kStripes, "the caller read that much");
  const std::vector<uint8_t> block = fold(stripes.data(), key_bytes, hash_number(hash));
  SecretBytes key(key_bytes);
  for (size_t i = 0; i < key_bytes; ++i)
    key.data()[i] = block[i] ^ stripes.data()[stripes.size() - key_bytes + i];
  return key;
}

uint32_t luks_iterations(const std::string& hash, size_t key_bytes, uint64_t milliseconds) {
  const SecretBytes passphrase(std::string("passphrase"));
  const std::array<uint8_t, 32> salt{};
  constexpr uint32_t kMost = 1u << 26;
  for (uint32_t tried = 16384;; tried *= 2) {
    const auto begin = std::chrono::steady_clock::now();
    luks_derive(passphrase, salt, tried, hash, key_bytes);
    const auto taken =
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin)
            .count();
    if (taken < 5000 && tried < kMost / 2) continue;
    const double wanted = static_cast<double>(tried) * static_cast<double>(milliseconds) * 1000.0 /
                          static_cast<double>(std::max<int64_t>(taken, 1));
    return static_cast<uint32_t>(std::clamp(wanted, 1000.0, static_cast<double>(kMost)));
  }
}

void luks_random(void* to, size_t bytes) {
  need_library();
  gcry_randomize(to, bytes, GCRY_STRONG_RANDOM);
}

LuksCipher::LuksCipher(SecretBytes key) : key_(std::move(key)) {
  need_library();
}

LuksCipher::~LuksCipher() {
  for (gcry_cipher_handle* handle : idle_) gcry_cipher_close(handle);
}

bool LuksCipher::run(uint64_t sector, std::span<std::byte> data, bool encrypting) {
  gcry_cipher_handle* handle = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      handle = idle_.back();
      idle_.pop_back();
    }
  }
  if (handle == nullptr) {
    // XTS takes two keys at once.
    const int algorithm = key_.size() == 32 ? GCRY_CIPHER_AES128 : GCRY_CIPHER_AES256;
    if (gcry_cipher_open(&handle, algorithm, GCRY_CIPHER_MODE_XTS, 0) != 0) return false;
    if (gcry_cipher_setkey(handle, key_.data(), key_.size()) != 0) {
      gcry_cipher_close(handle);
      return false;
    }
  }
  bool ok = true;
  for (size_t at = 0; at < data.size() && ok; at += 512, ++sector) {
    uint8_t tweak[16] = {};
    store_le(tweak, sector);
    ok = gcry_cipher_setiv(handle, tweak, sizeof tweak) == 0;
    if (!ok) break;
    ok = (encrypting ? gcry_cipher_encrypt(handle, data.data() + at, 512, nullptr, 0)
                     : gcry_cipher_decrypt(handle, data.data() + at, 512, nullptr, 0)) == 0;
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(handle);
  return ok;
}

}  // namespace ostler::block
