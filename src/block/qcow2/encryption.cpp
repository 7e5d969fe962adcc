#include "block/qcow2/encryption.h"

#include <fmt/format.h>
#include <gcrypt.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/lazy_library.h"
#include "block/formats/mapped/image_file.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kBounce = 1 << 20;
constexpr size_t kLegacyKeyBytes = 16;

}  // namespace

std::unique_ptr<LegacyCipher> LegacyCipher::make(const std::string& passphrase) {
  gcry_check_version(nullptr);
  gcry_cipher_hd_t handle = nullptr;
  if (gcry_cipher_open(&handle, GCRY_CIPHER_AES128, GCRY_CIPHER_MODE_CBC, 0) != 0) return nullptr;
  char key[kLegacyKeyBytes] = {};
  std::memcpy(key, passphrase.data(), std::min(passphrase.size(), sizeof key));
  const bool good = gcry_cipher_setkey(handle, key, sizeof key) == 0;
  explicit_bzero(key, sizeof key);
  std::unique_ptr<LegacyCipher> cipher(new LegacyCipher(handle));
  return good ? std::move(cipher) : nullptr;
}

LegacyCipher::~LegacyCipher() {
  gcry_cipher_close(handle_);
}

bool LegacyCipher::decrypt(uint64_t sector, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  for (size_t at = 0; at < data.size(); at += kSector, ++sector) {
    uint8_t vector[kLegacyKeyBytes] = {};
    ostler::store_le(vector, sector);
    if (gcry_cipher_setiv(handle_, vector, sizeof vector) != 0 ||
        gcry_cipher_decrypt(handle_, data.data() + at, kSector, nullptr, 0) != 0)
      return false;
  }
  return true;
}

// Reads the encryption's header and, with a passphrase, takes the key out of it.
Task<Result<void>> Qcow2Node::open_encryption(EncryptOptions options, const Opener& opener) {
  const bool luks = header_.encryption == 2;
  if (!options.format.empty() && options.format != (luks ? "luks" : "aes"))
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} is encrypted by '{}', not by '{}' as encrypt.format says", filename(),
                                luks ? "luks" : "aes", options.format));
  if (options.secret.empty() && !read_only_ && !flags_.check)
    co_return Error(ErrorKind::kInvalidArgument,
                    filename() +
                        " is encrypted: give the passphrase by --object secret,id=NAME,file=PATH and the "
                        "option encrypt.key-secret=NAME");
  encryption_ = std::make_unique<Encryption>();
  encryption_->opener = &opener;
  virgin_from_ = ~uint64_t{0};
  if (luks) {
    const uint64_t offset = header_.encryption_header.offset, bytes = header_.encryption_header.bytes;
    const uint64_t end = file_->size();
    if (offset > end || bytes > end - offset)
      co_return Error(
          ErrorKind::kCorrupt,
          fmt::format("{}: the encryption header at {:#x} with {} bytes is beyond the end of the file",
                      filename(), offset, bytes),
          EINVAL);
    std::array<std::byte, LuksHeader::kBytes> raw;
    CO_TRY(co_await read_image(*file_, offset, raw.data(), raw.size()));
    CO_TRY_ASSIGN(encryption_->luks, LuksHeader::parse(raw, *file_, bytes));
  } else if (!read_only_ && !flags_.check) {
    co_return Error(ErrorKind::kUnsupported,
                    filename() +
                        " is encrypted by the old method 'aes', which is only read; convert it to "
                        "encrypt.format=luks",
                    ENOTSUP);
  }
  if (options.secret.empty()) co_return Result<void>();
  CO_TRY_ASSIGN(const std::string text, opener.secret(options.secret, "encrypt.key-secret"));
  if (!luks) {
    CO_TRY(ostler_lazy_gcrypt.load());
    encryption_->legacy = LegacyCipher::make(text);
    if (!encryption_->legacy) co_return failed("libgcrypt has no AES-128-CBC", -ENOTSUP);
    co_return Result<void>();
  }
  SecretBytes passphrase(text);
  auto key = co_await unlock_luks(*file_, header_.encryption_header.offset, encryption_->luks,
                                  std::move(passphrase));
  if (!key) co_return std::move(key).error();
  encryption_->cipher = std::make_unique<LuksCipher>(encryption_->luks.algorithm, *std::move(key));
  co_return Result<void>();
}

// Makes a new image an encrypted one: the header's clusters are counted and filled before the image names
// them.
Task<Result<void>> Qcow2Node::create_encryption(LuksPlan plan, std::string passphrase) {
  const uint64_t bytes = plan.header.payload_offset();
  SecretBytes secret(passphrase);
  uint64_t offset = 0;
  int error = co_await allocate_metadata(bytes, offset);
  if (error != 0) co_return failed("there is no room for the encryption header", error);
  CO_TRY(co_await zero_image(*file_, offset, align_up(bytes, cluster_bytes_)));
  auto made = co_await format_luks(*file_, offset, std::move(plan), std::move(secret));
  if (!made) co_return std::move(made).error();
  error = co_await commit();
  if (error != 0) co_return failed("its metadata cannot be written", error);
  encryption_ = std::make_unique<Encryption>();
  encryption_->luks = std::move(made->header);
  encryption_->cipher = std::make_unique<LuksCipher>(encryption_->luks.algorithm, std::move(made->key));
  virgin_from_ = ~uint64_t{0};
  header_.encryption = 2;
  header_.encryption_header = {offset, bytes};
  co_return co_await write_header();
}

Task<Result<void>> Qcow2Node::amend_encryption(nlohmann::json values, bool force) {
  OptionReader options(std::move(values), filename() + ": encrypt");
  if (!encryption_ || !encryption_->cipher)
    co_return Error(ErrorKind::kInvalidArgument,
                    filename() +
                        ": key slots change only in an image that is encrypted by LUKS and opened with "
                        "its encrypt.key-secret");
  CO_TRY_ASSIGN(const LuksChange change, read_luks_change(options, *encryption_->opener, force));
  auto changed = co_await change_luks(*file_, header_.encryption_header.offset, encryption_->luks,
                                      encryption_->cipher->key(), change);
  if (!changed) co_return std::move(changed).error();
  encryption_->luks = *std::move(changed);
  co_return Result<void>();
}

// Whole sectors of one cluster or of several in a row.
Task<int> Qcow2Node::read_sectors(uint64_t host, uint64_t guest, std::span<std::byte> to) {
  const int error = co_await read_bytes(data_node(), host, to.data(), to.size());
  if (error != 0) co_return error;
  const bool good = encryption_->legacy ? encryption_->legacy->decrypt(guest / kSector, to)
                                        : encryption_->cipher->decrypt(host / kSector, to);
  co_return good ? 0 : -EIO;
}

Task<int> Qcow2Node::read_encrypted(uint64_t host, uint64_t guest, Buffers to) {
  if (!encryption_->unlocked()) co_return -EACCES;
  const uint64_t begin = align_down(host, kSector), end = align_up(host + total_bytes(to), kSector);
  const AlignedBuffer bounce(std::min(end - begin, kBounce));
  if (!bounce) co_return -ENOMEM;
  for (uint64_t at = begin; at < end; at += bounce.size()) {
    const std::span<std::byte> part = bounce.bytes().first(std::min<uint64_t>(bounce.size(), end - at));
    const int error = co_await read_sectors(at, align_down(guest, kSector) + (at - begin), part);
    if (error != 0) co_return error;
    const uint64_t from = std::max(at, host), until = std::min(at + part.size(), host + total_bytes(to));
    const Slice piece(to, from - host, until - from);
    copy_to(piece, part.data() + (from - at));
  }
  co_return 0;
}

Task<int> Qcow2Node::write_encrypted(uint64_t host, Buffers from) {
  if (!encryption_->cipher) co_return -EACCES;
  const uint64_t bytes = total_bytes(from);
  const uint64_t begin = align_down(host, kSector), end = align_up(host + bytes, kSector);
  Mutex::Guard alone;
  if (begin != host || end != host + bytes) alone = co_await encryption_->unaligned.lock();
  const AlignedBuffer bounce(std::min(end - begin, kBounce));
  if (!bounce) co_return -ENOMEM;
  for (uint64_t at = begin; at < end; at += bounce.size()) {
    const std::span<std::byte> part = bounce.bytes().first(std::min<uint64_t>(bounce.size(), end - at));
    const uint64_t first = std::max(at, host), until = std::min(at + part.size(), host + bytes);
    if (first != at || until != at + part.size()) {
      const int error = co_await read_sectors(at, 0, part);
      if (error != 0) co_return error;
    }
    const Slice piece(from, first - host, until - first);
    copy_from(piece, part.data() + (first - at));
    if (!encryption_->cipher->encrypt(at / kSector, part)) co_return -EIO;
    const int error = co_await write_bytes(data_node(), at, part.data(), part.size());
    if (error != 0) co_return error;
  }
  co_return 0;
}

void Qcow2Node::add_encryption_info(nlohmann::json& data) const {
  if (!encryption_) return;
  if (header_.encryption == 2) data["encrypt"] = encryption_->luks.describe();
  data["encrypt"]["format"] = header_.encryption == 2 ? "luks" : "aes";
}

}  // namespace ostler::block::qcow2
