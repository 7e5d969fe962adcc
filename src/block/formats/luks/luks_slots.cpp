// Key slots of an existing volume: one more passphrase, one less.
#include <fmt/format.h>

#include <algorithm>

#include "block/formats/luks/luks_key.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512, kFirstMaterial = 4096;

Error refuse(const Node& file, std::string_view why) {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", file.filename(), why), EINVAL);
}

Result<std::optional<SecretBytes>> passphrase(OptionReader& options, const char* name, const Opener& opener) {
  TRY_ASSIGN(const auto id, options.string(name));
  if (!id) return std::optional<SecretBytes>();
  TRY_ASSIGN(const std::string text, opener.secret(*id, name));
  return std::optional<SecretBytes>(SecretBytes(text));
}

// Whether the slot's material has a place of its own between header and data.
bool has_room(const LuksHeader& header, size_t index) {
  const uint64_t bytes = align_up(header.material_bytes(), kSector);
  const uint64_t begin = header.slots[index].material_sector * kSector;
  if (begin < kFirstMaterial || begin + bytes > header.payload_offset()) return false;
  for (size_t i = 0; i < header.slots.size(); ++i) {
    const uint64_t other = header.slots[i].material_sector * kSector;
    if (i != index && header.slots[i].active && other < begin + bytes && begin < other + bytes) return false;
  }
  return true;
}

Task<Result<void>> write_header(Node& file, uint64_t at, const LuksHeader& header) {
  const auto bytes = header.encode();
  CO_TRY(co_await write_image(file, at, bytes.data(), bytes.size()));
  co_return co_await flush_image(file);
}

Task<Result<LuksHeader>> add_slot(Node& file, uint64_t at, LuksHeader header, const SecretBytes& key,
                                  const LuksChange& change) {
  size_t index = 0;
  if (change.slot) {
    index = *change.slot;
    if (header.slots[index].active)
      co_return refuse(file, fmt::format("key slot {} is in use; make it inactive first", index));
  } else {
    while (index < header.slots.size() && header.slots[index].active) ++index;
    if (index == header.slots.size()) co_return refuse(file, "all key slots are in use; make one inactive");
  }
  if (!has_room(header, index))
    co_return refuse(file, fmt::format("key slot {} has no place of its own in the header", index));
  Result<SecretBytes> material = SecretBytes();
  std::function<void()> work = [&] {
    material = fill_luks_slot(header, header.slots[index], key, *change.new_passphrase, change.milliseconds);
  };
  co_await IoContext::current()->offload(std::move(work));
  if (!material) co_return std::move(material).error().with_context(file.filename());
  uint64_t iterations = header.digest_iterations;
  for (const LuksSlot& slot : header.slots) iterations += slot.active ? slot.iterations : 0;
  if (iterations > LuksHeader::kMostIterations)
    co_return refuse(file, "its key slots would take too long to try; use a smaller iter-time");
  CO_TRY(co_await write_image(file, at + header.slots[index].material_sector * kSector, material->data(),
                              material->size()));
  CO_TRY(co_await flush_image(file));
  CO_TRY(co_await write_header(file, at, header));
  co_return header;
}

Task<Result<LuksHeader>> erase_slots(Node& file, uint64_t at, LuksHeader header, const LuksChange& change) {
  std::vector<size_t> erased;
  for (size_t i = 0; i < header.slots.size(); ++i) {
    if (change.slot && *change.slot != i) continue;
    if (!header.slots[i].active) {
      if (change.slot && !change.force)
        co_return refuse(file, fmt::format("key slot {} is inactive already", i));
      if (!change.slot) continue;
    }
    bool matches = true;
    if (change.old_passphrase && header.slots[i].active) {
      SecretBytes key;
      CO_TRY_ASSIGN(matches,
                    co_await open_luks_slot(file, at, header, header.slots[i], *change.old_passphrase, key));
    }
    if (matches) erased.push_back(i);
  }
  if (erased.empty()) co_return refuse(file, "the passphrase of 'old-secret' opens none of those key slots");
  for (const size_t index : erased) header.slots[index].active = false;
  if (!change.force && std::ranges::none_of(header.slots, [](const LuksSlot& slot) { return slot.active; }))
    co_return refuse(
        file, "no key slot would be left and the content would be lost; give --force if that is wanted");
  for (const size_t index : erased) {
    header.slots[index].iterations = 0;
    header.slots[index].salt = {};
  }
  CO_TRY(co_await write_header(file, at, header));
  SecretBytes noise(align_up(header.material_bytes(), kSector));
  for (const size_t index : erased) {
    if (!has_room(header, index)) continue;
    luks_random(noise.data(), noise.size());
    CO_TRY(co_await write_image(file, at + header.slots[index].material_sector * kSector, noise.data(),
                                noise.size()));
  }
  CO_TRY(co_await flush_image(file));
  co_return header;
}

}  // namespace

Result<LuksChange> read_luks_change(OptionReader& options, const Opener& opener, bool force) {
  LuksChange change;
  change.force = force;
  TRY_ASSIGN(const auto state, options.choice("state", {"active", "inactive"}));
  TRY_ASSIGN(const auto slot, options.number("keyslot", 7));
  TRY_ASSIGN(const auto milliseconds, options.number("iter-time", 20000));
  TRY_ASSIGN(change.old_passphrase, passphrase(options, "old-secret", opener));
  TRY_ASSIGN(change.new_passphrase, passphrase(options, "new-secret", opener));
  TRY(options.finish());
  if (!state) return options.error("state", "is missing: active adds a passphrase, inactive takes one away");
  change.activate = state == "active";
  if (slot) change.slot = static_cast<unsigned>(*slot);
  if (milliseconds == 0) return options.error("iter-time", "must be 1 at least");
  change.milliseconds = milliseconds.value_or(change.milliseconds);
  if (change.activate) {
    if (!change.new_passphrase) return options.error("new-secret", "is missing: the passphrase to add");
    if (change.old_passphrase) return options.error("old-secret", "is for state=inactive");
  } else {
    if (change.new_passphrase) return options.error("new-secret", "is for state=active");
    if (milliseconds) return options.error("iter-time", "is for state=active");
    if (!change.old_passphrase && !change.slot)
      return options.error("old-secret", "is missing, or keyslot: which of them is to become inactive");
  }
  return change;
}

Task<Result<LuksHeader>> change_luks(Node& file, uint64_t at, LuksHeader header, const SecretBytes& key,
                                     const LuksChange& change) {
  if (change.activate) co_return co_await add_slot(file, at, std::move(header), key, change);
  co_return co_await erase_slots(file, at, std::move(header), change);
}

}  // namespace ostler::block
