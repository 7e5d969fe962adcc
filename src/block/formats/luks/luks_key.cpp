#include "block/formats/luks/luks_key.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;

// On a worker thread: this takes a second or more.
SecretBytes key_of_slot(const LuksHeader& header, const LuksSlot& slot, const SecretBytes& passphrase,
                        SecretBytes material, bool& right) {
  right = false;
  LuksCipher cipher(header.algorithm,
                    luks_derive(passphrase, slot.salt, slot.iterations, header.hash, header.key_bytes()));
  if (!cipher.decrypt(0, std::as_writable_bytes(std::span(material.data(), material.size()))))
    return SecretBytes();
  SecretBytes stripes(header.material_bytes());
  std::memcpy(stripes.data(), material.data(), stripes.size());
  SecretBytes key = luks_merge(stripes, header.hash, header.key_bytes());
  const SecretBytes digest =
      luks_derive(key, header.digest_salt, header.digest_iterations, header.hash, LuksHeader::kDigestBytes);
  right = std::memcmp(digest.data(), header.digest.data(), digest.size()) == 0;
  return key;
}

}  // namespace

Task<Result<bool>> open_luks_slot(Node& file, uint64_t at, const LuksHeader& header, const LuksSlot& slot,
                                  const SecretBytes& passphrase, SecretBytes& key) {
  SecretBytes material(align_up(header.material_bytes(), kSector));
  CO_TRY(co_await read_image(file, at + slot.material_sector * kSector, material.data(), material.size()));
  bool right = false;
  std::function<void()> work = [&] {
    key = key_of_slot(header, slot, passphrase, std::move(material), right);
  };
  co_await IoContext::current()->offload(std::move(work));
  co_return right;
}

SecretBytes fill_luks_slot(const LuksHeader& header, LuksSlot& slot, const SecretBytes& key,
                           const SecretBytes& passphrase, uint64_t milliseconds) {
  luks_random(slot.salt.data(), slot.salt.size());
  slot.active = true;
  slot.iterations = luks_iterations(header.hash, header.key_bytes(), milliseconds);
  const SecretBytes stripes = luks_split(key, header.hash);
  SecretBytes material(align_up(header.material_bytes(), kSector));
  std::memcpy(material.data(), stripes.data(), stripes.size());
  LuksCipher cipher(header.algorithm,
                    luks_derive(passphrase, slot.salt, slot.iterations, header.hash, header.key_bytes()));
  const bool encrypted =
      cipher.encrypt(0, std::as_writable_bytes(std::span(material.data(), material.size())));
  ASSERT(encrypted, "luks_available() has asked, and the key has the cipher's length");
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
  SecretBytes& key = made.key;
  SecretBytes material;
  std::function<void()> work = [&] {
    key = SecretBytes(header.key_bytes());
    luks_random(key.data(), key.size());
    luks_random(header.digest_salt.data(), header.digest_salt.size());
    material = fill_luks_slot(header, header.slots[0], key, passphrase, plan.milliseconds);
    // The key is random: its digest needs fewer than a passphrase does.
    header.digest_iterations = std::max<uint32_t>(header.slots[0].iterations / 8, 1000);
    const SecretBytes digest =
        luks_derive(key, header.digest_salt, header.digest_iterations, header.hash, LuksHeader::kDigestBytes);
    std::memcpy(header.digest.data(), digest.data(), digest.size());
  };
  co_await IoContext::current()->offload(std::move(work));
  header.uuid = uuid_text(random_uuid());
  const auto bytes = header.encode();
  CO_TRY(co_await zero_image(file, at, header.payload_offset()));
  CO_TRY(co_await write_image(file, at + header.slots[0].material_sector * kSector, material.data(),
                              material.size()));
  CO_TRY(co_await write_image(file, at, bytes.data(), bytes.size()));
  co_return made;
}

}  // namespace ostler::block
