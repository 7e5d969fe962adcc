#include "block/formats/luks/luks_key.h"

#include <algorithm>
#include <cstring>

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;

Error cipher_failed() {
  return Error(ErrorKind::kUnsupported, "the cipher is refused by the libgcrypt of this host", ENOTSUP);
}

// Whether it is the volume's key. On a worker thread: this takes a second or more.
Result<bool> key_of_slot(const LuksHeader& header, const LuksSlot& slot, const SecretBytes& passphrase,
                         SecretBytes material, SecretBytes& key) {
  TRY_ASSIGN(SecretBytes slot_key,
             luks_derive(passphrase, slot.salt, slot.iterations, header.hash, header.key_bytes()));
  LuksCipher cipher(header.algorithm, std::move(slot_key));
  if (!cipher.decrypt(0, std::as_writable_bytes(std::span(material.data(), material.size()))))
    return cipher_failed();
  SecretBytes stripes(header.material_bytes());
  std::memcpy(stripes.data(), material.data(), stripes.size());
  key = luks_merge(stripes, header.hash, header.key_bytes());
  TRY_ASSIGN(const SecretBytes digest, luks_derive(key, header.digest_salt, header.digest_iterations,
                                                   header.hash, LuksHeader::kDigestBytes));
  return std::memcmp(digest.data(), header.digest.data(), digest.size()) == 0;
}

// A new volume's key, its slot's material and its digest.
Result<SecretBytes> make_key(LuksHeader& header, SecretBytes& key, const SecretBytes& passphrase,
                             uint64_t milliseconds) {
  key = SecretBytes(header.key_bytes());
  luks_random(key.data(), key.size());
  luks_random(header.digest_salt.data(), header.digest_salt.size());
  TRY_ASSIGN(SecretBytes material, fill_luks_slot(header, header.slots[0], key, passphrase, milliseconds));
  // The key is random: its digest needs fewer than a passphrase does.
  header.digest_iterations = std::max<uint32_t>(header.slots[0].iterations / 8, 1000);
  TRY_ASSIGN(const SecretBytes digest, luks_derive(key, header.digest_salt, header.digest_iterations,
                                                   header.hash, LuksHeader::kDigestBytes));
  std::memcpy(header.digest.data(), digest.data(), digest.size());
  return material;
}

}  // namespace

Task<Result<bool>> open_luks_slot(Node& file, uint64_t at, const LuksHeader& header, const LuksSlot& slot,
                                  const SecretBytes& passphrase, SecretBytes& key) {
  SecretBytes material(align_up(header.material_bytes(), kSector));
  CO_TRY(co_await read_image(file, at + slot.material_sector * kSector, material.data(), material.size()));
  Result<bool> right = false;
  std::function<void()> work = [&] {
    right = key_of_slot(header, slot, passphrase, std::move(material), key);
  };
  co_await IoContext::current()->offload(std::move(work));
  if (!right) co_return std::move(right).error().with_context(file.filename());
  co_return right;
}

Result<SecretBytes> fill_luks_slot(const LuksHeader& header, LuksSlot& slot, const SecretBytes& key,
                                   const SecretBytes& passphrase, uint64_t milliseconds) {
  luks_random(slot.salt.data(), slot.salt.size());
  slot.active = true;
  TRY_ASSIGN(slot.iterations, luks_iterations(header.hash, header.key_bytes(), milliseconds));
  const SecretBytes stripes = luks_split(key, header.hash);
  SecretBytes material(align_up(header.material_bytes(), kSector));
  std::memcpy(material.data(), stripes.data(), stripes.size());
  TRY_ASSIGN(SecretBytes slot_key,
             luks_derive(passphrase, slot.salt, slot.iterations, header.hash, header.key_bytes()));
  LuksCipher cipher(header.algorithm, std::move(slot_key));
  if (!cipher.encrypt(0, std::as_writable_bytes(std::span(material.data(), material.size()))))
    return cipher_failed();
  return material;
}

Task<Result<SecretBytes>> unlock_luks(Node& file, uint64_t at, LuksHeader header, SecretBytes passphrase) {
  CO_TRY(luks_available(header, file.filename()));
  for (const LuksSlot& slot : header.slots) {
    if (!slot.active) continue;
    SecretBytes key;
    CO_TRY_ASSIGN(const bool opened, co_await open_luks_slot(file, at, header, slot, passphrase, key));
    if (opened) co_return key;
  }
  co_return Error(ErrorKind::kPermission,
                  file.filename() + ": the passphrase of its 'key-secret' opens none of its key slots",
                  EACCES);
}

Task<Result<NewLuks>> format_luks(Node& file, uint64_t at, LuksPlan plan, SecretBytes passphrase) {
  CO_TRY(luks_available(plan.header, file.filename()));
  NewLuks made;
  made.header = std::move(plan.header);
  LuksHeader& header = made.header;
  Result<SecretBytes> material = SecretBytes();
  std::function<void()> work = [&] { material = make_key(header, made.key, passphrase, plan.milliseconds); };
  co_await IoContext::current()->offload(std::move(work));
  if (!material) co_return std::move(material).error().with_context(file.filename());
  header.uuid = uuid_text(random_uuid());
  const auto bytes = header.encode();
  CO_TRY(co_await zero_image(file, at, header.payload_offset()));
  CO_TRY(co_await write_image(file, at + header.slots[0].material_sector * kSector, material->data(),
                              material->size()));
  CO_TRY(co_await write_image(file, at, bytes.data(), bytes.size()));
  co_return made;
}

}  // namespace ostler::block
