// Key slots: opening one with a passphrase, and filling one of a new volume.
#include <cstring>

#include "block/formats/luks/luks_node.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;

struct Attempt {
  SecretBytes key;
  bool right = false;
};

// On a worker thread: this takes a second or more.
Attempt try_slot(const LuksHeader& header, const LuksSlot& slot, const SecretBytes& passphrase,
                 SecretBytes material) {
  LuksCipher cipher(luks_derive(passphrase, slot.salt, slot.iterations, header.hash, header.key_bytes));
  Attempt attempt;
  if (!cipher.decrypt(0, std::as_writable_bytes(std::span(material.data(), material.size())))) return attempt;
  SecretBytes stripes(header.material_bytes());
  std::memcpy(stripes.data(), material.data(), stripes.size());
  attempt.key = luks_merge(stripes, header.hash, header.key_bytes);
  const SecretBytes digest = luks_derive(attempt.key, header.digest_salt, header.digest_iterations,
                                         header.hash, LuksHeader::kDigestBytes);
  attempt.right = std::memcmp(digest.data(), header.digest.data(), digest.size()) == 0;
  return attempt;
}

}  // namespace

Task<Result<SecretBytes>> unlock_luks(Node& file, LuksHeader header, SecretBytes passphrase) {
  for (const LuksSlot& slot : header.slots) {
    if (!slot.active) continue;
    SecretBytes material(align_up(header.material_bytes(), kSector));
    CO_TRY(co_await read_image(file, slot.material_sector * kSector, material.data(), material.size()));
    Attempt attempt;
    std::function<void()> work = [&] { attempt = try_slot(header, slot, passphrase, std::move(material)); };
    co_await IoContext::current()->offload(std::move(work));
    if (attempt.right) co_return std::move(attempt.key);
  }
  co_return Error(ErrorKind::kPermission,
                  file.filename() + ": the passphrase of its 'key-secret' opens none of its key slots",
                  EACCES);
}

Task<Result<void>> format_luks(Node& file, LuksHeader header, SecretBytes passphrase, uint64_t milliseconds) {
  SecretBytes material(align_up(header.material_bytes(), kSector));
  LuksSlot& slot = header.slots[0];
  std::function<void()> work = [&] {
    SecretBytes key(header.key_bytes);
    luks_random(key.data(), key.size());
    luks_random(slot.salt.data(), slot.salt.size());
    luks_random(header.digest_salt.data(), header.digest_salt.size());
    slot.active = true;
    slot.iterations = luks_iterations(header.hash, header.key_bytes, milliseconds);
    // The key is random: its digest needs fewer than a passphrase does.
    header.digest_iterations = std::max<uint32_t>(slot.iterations / 8, 1000);
    const SecretBytes digest =
        luks_derive(key, header.digest_salt, header.digest_iterations, header.hash, LuksHeader::kDigestBytes);
    std::memcpy(header.digest.data(), digest.data(), digest.size());
    const SecretBytes stripes = luks_split(key, header.hash);
    std::memcpy(material.data(), stripes.data(), stripes.size());
    LuksCipher cipher(luks_derive(passphrase, slot.salt, slot.iterations, header.hash, header.key_bytes));
    cipher.encrypt(0, std::as_writable_bytes(std::span(material.data(), material.size())));
  };
  co_await IoContext::current()->offload(std::move(work));
  const auto bytes = header.encode();
  CO_TRY(co_await zero_image(file, 0, header.payload_offset()));
  CO_TRY(co_await write_image(file, slot.material_sector * kSector, material.data(), material.size()));
  co_return co_await write_image(file, 0, bytes.data(), bytes.size());
}

}  // namespace ostler::block
