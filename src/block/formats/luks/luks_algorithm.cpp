#include "block/formats/luks/luks_algorithm.h"

#include <fmt/format.h>
#include <gcrypt.h>

#include <algorithm>

#include "base/assert.h"

namespace ostler::block {
namespace {

// Twofish has keys of 192 bits too, but not in libgcrypt.
constexpr LuksBlockCipher kCiphers[] = {
    {"aes-128", "aes", GCRY_CIPHER_AES128, 16, 16},
    {"aes-192", "aes", GCRY_CIPHER_AES192, 24, 16},
    {"aes-256", "aes", GCRY_CIPHER_AES256, 32, 16},
    {"cast5-128", "cast5", GCRY_CIPHER_CAST5, 16, 8},
    {"serpent-128", "serpent", GCRY_CIPHER_SERPENT128, 16, 16},
    {"serpent-192", "serpent", GCRY_CIPHER_SERPENT192, 24, 16},
    {"serpent-256", "serpent", GCRY_CIPHER_SERPENT256, 32, 16},
    {"twofish-128", "twofish", GCRY_CIPHER_TWOFISH128, 16, 16},
    {"twofish-256", "twofish", GCRY_CIPHER_TWOFISH, 32, 16},
};

struct Hash {
  std::string_view name;
  int number;
  uint32_t bytes;
};
constexpr Hash kHashes[] = {
    {"md5", GCRY_MD_MD5, 16},       {"ripemd160", GCRY_MD_RMD160, 20}, {"sha1", GCRY_MD_SHA1, 20},
    {"sha224", GCRY_MD_SHA224, 28}, {"sha256", GCRY_MD_SHA256, 32},    {"sha384", GCRY_MD_SHA384, 48},
    {"sha512", GCRY_MD_SHA512, 64},
};

template <class Table>
std::vector<std::string_view> names_of(const Table& table) {
  std::vector<std::string_view> names;
  for (const auto& each : table) names.push_back(each.name);
  return names;
}

bool knows(const std::vector<std::string_view>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

const LuksBlockCipher* find_cipher(std::string_view family, uint32_t key_bytes) {
  const auto* const found = std::ranges::find_if(kCiphers, [&](const LuksBlockCipher& each) {
    return each.family == family && each.key_bytes == key_bytes;
  });
  return found == std::end(kCiphers) ? nullptr : found;
}

const Hash* find_hash(std::string_view name) {
  const auto* const found = std::ranges::find(kHashes, name, &Hash::name);
  return found == std::end(kHashes) ? nullptr : found;
}

const LuksBlockCipher* find_vector_cipher(std::string_view family, std::string_view hash) {
  const Hash* const found = find_hash(hash);
  return found == nullptr ? nullptr : find_cipher(family, found->bytes);
}

}  // namespace

std::optional<LuksAlgorithm> LuksAlgorithm::parse(std::string_view family, std::string_view mode,
                                                  uint32_t key_bytes) {
  LuksAlgorithm algorithm;
  const size_t dash = mode.find('-');
  if (dash == mode.npos) return std::nullopt;
  algorithm.mode = mode.substr(0, dash);
  const std::string_view vectors = mode.substr(dash + 1);
  const size_t colon = vectors.find(':');
  algorithm.ivgen = vectors.substr(0, colon);
  if (colon != vectors.npos) {
    algorithm.ivgen_hash = vectors.substr(colon + 1);
    if (find_hash(algorithm.ivgen_hash) == nullptr) return std::nullopt;
  }
  if (!knows(luks_mode_names(), algorithm.mode) || !knows(luks_ivgen_names(), algorithm.ivgen))
    return std::nullopt;
  const bool twice = algorithm.mode == "xts";
  if (twice && key_bytes % 2 != 0) return std::nullopt;
  const LuksBlockCipher* const cipher = find_cipher(family, twice ? key_bytes / 2 : key_bytes);
  if (cipher == nullptr) return std::nullopt;
  algorithm.cipher = cipher->name;
  return algorithm;
}

std::string LuksAlgorithm::problem() const {
  const LuksBlockCipher& used = block_cipher();
  if (mode == "xts" && used.block_bytes != 16)
    return fmt::format("xts is for blocks of 16 bytes, {} has blocks of {}; cbc goes with it", cipher,
                       used.block_bytes);
  if (ivgen == "essiv" && ivgen_hash.empty()) return "essiv needs a hash, and none is named";
  if (ivgen == "essiv" && find_vector_cipher(used.family, ivgen_hash) == nullptr)
    return fmt::format("essiv needs a hash as long as a key of {}, which {} is not; {} is", used.family,
                       ivgen_hash, used.family == "cast5" ? "md5" : "sha256");
  return "";
}

const LuksBlockCipher& LuksAlgorithm::block_cipher() const {
  const auto* const found = std::ranges::find(kCiphers, cipher, &LuksBlockCipher::name);
  ASSERT(found != std::end(kCiphers), "the name was looked up when it was read");
  return *found;
}

const LuksBlockCipher& LuksAlgorithm::vector_cipher() const {
  const LuksBlockCipher* const found = find_vector_cipher(block_cipher().family, ivgen_hash);
  ASSERT(found != nullptr, "an algorithm without it has a problem");
  return *found;
}

uint32_t LuksAlgorithm::key_bytes() const {
  return block_cipher().key_bytes * (mode == "xts" ? 2 : 1);
}

std::string LuksAlgorithm::header_mode() const {
  return mode + "-" + ivgen + (ivgen_hash.empty() ? "" : ":" + ivgen_hash);
}

const std::vector<std::string_view>& luks_cipher_names() {
  static const std::vector<std::string_view> names = names_of(kCiphers);
  return names;
}

const std::vector<std::string_view>& luks_mode_names() {
  static const std::vector<std::string_view> names = {"cbc", "ctr", "ecb", "xts"};
  return names;
}

const std::vector<std::string_view>& luks_ivgen_names() {
  static const std::vector<std::string_view> names = {"essiv", "plain", "plain64"};
  return names;
}

const std::vector<std::string_view>& luks_hash_names() {
  static const std::vector<std::string_view> names = names_of(kHashes);
  return names;
}

std::optional<int> luks_hash_number(std::string_view name) {
  const Hash* const found = find_hash(name);
  return found == nullptr ? std::nullopt : std::optional<int>(found->number);
}

}  // namespace ostler::block
