#include "block/formats/luks/luks_crypto.h"

#include <fmt/format.h>
#include <gcrypt.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/assert.h"
#include "base/lazy_library.h"

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

int hash_number(std::string_view hash) {
  const auto number = luks_hash_number(hash);
  ASSERT(number, "the name was looked up when it was read");
  return *number;
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

Result<void> luks_available(const LuksHeader& header, const std::string& name) {
  TRY(ostler_lazy_gcrypt.load());
  need_library();
  const auto lacks = [&](std::string_view what) {
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: {} is not allowed by the libgcrypt of this host", name, what), ENOTSUP);
  };
  const LuksAlgorithm& algorithm = header.algorithm;
  const bool essiv = algorithm.ivgen == "essiv";
  if (gcry_cipher_test_algo(algorithm.block_cipher().number) != 0) return lacks(algorithm.cipher);
  if (essiv && gcry_cipher_test_algo(algorithm.vector_cipher().number) != 0)
    return lacks(algorithm.vector_cipher().name);
  for (const std::string& hash : {header.hash, essiv ? algorithm.ivgen_hash : header.hash})
    if (gcry_md_test_algo(hash_number(hash)) != 0) return lacks(hash);
  return {};
}

Result<SecretBytes> luks_derive(const SecretBytes& passphrase, std::span<const uint8_t> salt,
                                uint32_t iterations, const std::string& hash, size_t key_bytes) {
  need_library();
  SecretBytes key(key_bytes);
  const gcry_error_t error =
      gcry_kdf_derive(passphrase.data(), passphrase.size(), GCRY_KDF_PBKDF2, hash_number(hash), salt.data(),
                      salt.size(), iterations, key.size(), key.data());
  if (error != 0)
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("the libgcrypt of this host makes no key of {} bytes from a passphrase of {} bytes "
                    "by PBKDF2 with {} ({}); where FIPS 140 is the rule, try a passphrase of 14 bytes "
                    "or more",
                    key_bytes, passphrase.size(), hash, gcry_strerror(error)),
        ENOTSUP);
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

Result<uint32_t> luks_iterations(const std::string& hash, size_t key_bytes, uint64_t milliseconds) {
  const SecretBytes passphrase(std::string("a passphrase that is long enough for FIPS 140"));
  const std::array<uint8_t, 32> salt{};
  constexpr uint32_t kMost = 1u << 26;
  for (uint32_t tried = 16384;; tried *= 2) {
    const auto begin = std::chrono::steady_clock::now();
    TRY(luks_derive(passphrase, salt, tried, hash, key_bytes));
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

LuksCipher::LuksCipher(LuksAlgorithm algorithm, SecretBytes key)
    : algorithm_(std::move(algorithm)),
      key_(std::move(key)),
      vector_bytes_(algorithm_.block_cipher().block_bytes) {
  need_library();
}

LuksCipher::~LuksCipher() {
  for (const Handles& handles : idle_) close(handles);
}

void LuksCipher::close(const Handles& handles) {
  gcry_cipher_close(handles.sectors);
  gcry_cipher_close(handles.vectors);
}

bool LuksCipher::open(Handles& handles) const {
  int mode = GCRY_CIPHER_MODE_XTS;
  if (algorithm_.mode == "cbc") mode = GCRY_CIPHER_MODE_CBC;
  if (algorithm_.mode == "ctr") mode = GCRY_CIPHER_MODE_CTR;
  if (algorithm_.mode == "ecb") mode = GCRY_CIPHER_MODE_ECB;
  if (gcry_cipher_open(&handles.sectors, algorithm_.block_cipher().number, mode, 0) != 0 ||
      gcry_cipher_setkey(handles.sectors, key_.data(), key_.size()) != 0)
    return false;
  if (algorithm_.ivgen != "essiv") return true;
  const LuksBlockCipher& cipher = algorithm_.vector_cipher();
  SecretBytes salt(cipher.key_bytes);
  gcry_md_hash_buffer(hash_number(algorithm_.ivgen_hash), salt.data(), key_.data(), key_.size());
  return gcry_cipher_open(&handles.vectors, cipher.number, GCRY_CIPHER_MODE_ECB, 0) == 0 &&
         gcry_cipher_setkey(handles.vectors, salt.data(), salt.size()) == 0;
}

bool LuksCipher::begin(const Handles& handles, uint64_t sector) const {
  if (algorithm_.mode == "ecb") return true;
  uint8_t vector[16] = {};
  store_le(vector, algorithm_.ivgen == "plain" ? sector & 0xffffffff : sector);
  if (handles.vectors != nullptr &&
      gcry_cipher_encrypt(handles.vectors, vector, vector_bytes_, nullptr, 0) != 0)
    return false;
  return (algorithm_.mode == "ctr" ? gcry_cipher_setctr(handles.sectors, vector, vector_bytes_)
                                   : gcry_cipher_setiv(handles.sectors, vector, vector_bytes_)) == 0;
}

bool LuksCipher::run(uint64_t sector, std::span<std::byte> data, bool encrypting) {
  Handles handles;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      handles = idle_.back();
      idle_.pop_back();
    }
  }
  if (handles.sectors == nullptr && !open(handles)) {
    close(handles);
    return false;
  }
  bool ok = true;
  for (size_t at = 0; at < data.size() && ok; at += 512, ++sector) {
    ok = begin(handles, sector);
    if (!ok) break;
    ok = (encrypting ? gcry_cipher_encrypt(handles.sectors, data.data() + at, 512, nullptr, 0)
                     : gcry_cipher_decrypt(handles.sectors, data.data() + at, 512, nullptr, 0)) == 0;
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(handles);
  return ok;
}

}  // namespace ostler::block
