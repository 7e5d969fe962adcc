#include "block/formats/luks/luks_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

namespace ostler::block {
namespace {

constexpr char kMagic[] = {'L', 'U', 'K', 'S', '\xba', '\xbe'};
constexpr uint32_t kActive = 0x00ac71f3, kInactive = 0x0000dead;
constexpr uint64_t kSlotAlignment = 4096, kSector = 512;
constexpr size_t kSlotsOffset = 208, kSlotBytes = 48;

std::string text_at(const std::byte* at, size_t most) {
  const auto* text = reinterpret_cast<const char*>(at);
  return std::string(text, strnlen(text, most));
}

void put_text(std::byte* at, const std::string& text, size_t most) {
  std::memcpy(at, text.data(), std::min(text.size(), most));
}

}  // namespace

bool LuksHeader::recognised(std::span<const std::byte> head) {
  return head.size() >= 8 && std::memcmp(head.data(), kMagic, sizeof kMagic) == 0;
}

Result<LuksHeader> LuksHeader::parse(std::span<const std::byte, kBytes> bytes, const Node& file,
                                     uint64_t room) {
  const std::byte* const at = bytes.data();
  if (!recognised(bytes)) return damaged(file, "luks", "its signature is missing");
  if (load_be<uint16_t>(at + 6) != 1)
    return cannot(file, "luks",
                  fmt::format("it has version {}, only LUKS1 is supported", load_be<uint16_t>(at + 6)));
  LuksHeader header;
  const std::string cipher = text_at(at + 8, 32), mode = text_at(at + 40, 32);
  header.hash = text_at(at + 72, 32);
  header.payload_sector = load_be<uint32_t>(at + 104);
  const auto key_bytes = load_be<uint32_t>(at + 108);
  std::memcpy(header.digest.data(), at + 112, header.digest.size());
  std::memcpy(header.digest_salt.data(), at + 132, header.digest_salt.size());
  header.digest_iterations = load_be<uint32_t>(at + 164);
  header.uuid = text_at(at + 168, 40);
  for (const char c : cipher + mode + header.hash + header.uuid)
    if (c < ' ' || c > '~') return damaged(file, "luks", "a name in its header is not text");
  const auto algorithm = LuksAlgorithm::parse(cipher, mode, key_bytes);
  if (!algorithm)
    return cannot(file, "luks",
                  fmt::format("it is encrypted by {}-{} with keys of {} bytes; supported are {} in modes {} "
                              "with vectors {}",
                              cipher, mode, key_bytes, fmt::join(luks_cipher_names(), ", "),
                              fmt::join(luks_mode_names(), ", "), fmt::join(luks_ivgen_names(), ", ")));
  if (const std::string problem = algorithm->problem(); !problem.empty())
    return cannot(file, "luks", fmt::format("it is encrypted by {}-{}: {}", cipher, mode, problem));
  header.algorithm = *algorithm;
  if (!luks_hash_number(header.hash))
    return cannot(
        file, "luks",
        fmt::format("its hash is {}; supported are {}", header.hash, fmt::join(luks_hash_names(), ", ")));
  if (header.payload_sector < kSlotAlignment / kSector || header.payload_offset() > room)
    return damaged(file, "luks",
                   fmt::format("its data begin at sector {}, not within the file", header.payload_sector));
  uint64_t iterations = header.digest_iterations;
  bool none = header.digest_iterations == 0;
  for (size_t i = 0; i < header.slots.size(); ++i) {
    const std::byte* const slot_at = at + kSlotsOffset + i * kSlotBytes;
    LuksSlot& slot = header.slots[i];
    const auto state = load_be<uint32_t>(slot_at);
    slot.active = state == kActive;
    slot.iterations = load_be<uint32_t>(slot_at + 4);
    std::memcpy(slot.salt.data(), slot_at + 8, slot.salt.size());
    slot.material_sector = load_be<uint32_t>(slot_at + 40);
    if (state != kActive && state != kInactive)
      return damaged(file, "luks", fmt::format("key slot {} is neither active nor inactive", i));
    if (!slot.active) continue;
    iterations += slot.iterations;
    none = none || slot.iterations == 0;
    if (load_be<uint32_t>(slot_at + 44) != kStripes || slot.material_sector < kSlotAlignment / kSector ||
        slot.material_sector * kSector + header.material_bytes() > header.payload_offset())
      return damaged(file, "luks", fmt::format("key slot {} does not lie between header and data", i));
  }
  if (none || iterations > kMostIterations)
    return damaged(file, "luks",
                   fmt::format("its key slots ask for {} iterations; 1 to {} are supported", iterations,
                               kMostIterations));
  return header;
}

std::array<std::byte, LuksHeader::kBytes> LuksHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  std::memcpy(at, kMagic, sizeof kMagic);
  store_be<uint16_t>(at + 6, 1);
  put_text(at + 8, algorithm.header_cipher(), 31);
  put_text(at + 40, algorithm.header_mode(), 31);
  put_text(at + 72, hash, 31);
  store_be<uint32_t>(at + 104, payload_sector);
  store_be<uint32_t>(at + 108, key_bytes());
  std::memcpy(at + 112, digest.data(), digest.size());
  std::memcpy(at + 132, digest_salt.data(), digest_salt.size());
  store_be<uint32_t>(at + 164, digest_iterations);
  put_text(at + 168, uuid, 39);
  for (size_t i = 0; i < slots.size(); ++i) {
    std::byte* const slot_at = at + kSlotsOffset + i * kSlotBytes;
    store_be<uint32_t>(slot_at, slots[i].active ? kActive : kInactive);
    store_be<uint32_t>(slot_at + 4, slots[i].iterations);
    std::memcpy(slot_at + 8, slots[i].salt.data(), slots[i].salt.size());
    store_be<uint32_t>(slot_at + 40, slots[i].material_sector);
    store_be<uint32_t>(slot_at + 44, kStripes);
  }
  return bytes;
}

void LuksHeader::place_slots() {
  const uint64_t each = align_up(material_bytes(), kSlotAlignment);
  for (size_t i = 0; i < slots.size(); ++i)
    slots[i].material_sector = static_cast<uint32_t>((kSlotAlignment + i * each) / kSector);
  payload_sector = static_cast<uint32_t>((kSlotAlignment + slots.size() * each) / kSector);
}

nlohmann::json LuksHeader::describe() const {
  nlohmann::json list = nlohmann::json::array();
  for (const LuksSlot& slot : slots) {
    nlohmann::json one = {{"active", slot.active}, {"key-offset", slot.material_sector * kSector}};
    if (slot.active) {
      one["iters"] = slot.iterations;
      one["stripes"] = kStripes;
    }
    list.push_back(std::move(one));
  }
  nlohmann::json info = {{"cipher-alg", algorithm.cipher},
                         {"cipher-mode", algorithm.mode},
                         {"ivgen-alg", algorithm.ivgen},
                         {"hash-alg", hash},
                         {"payload-offset", payload_offset()},
                         {"master-key-iters", digest_iterations},
                         {"uuid", uuid},
                         {"slots", std::move(list)}};
  if (algorithm.ivgen == "essiv") info["ivgen-hash-alg"] = algorithm.ivgen_hash;
  return info;
}

}  // namespace ostler::block
