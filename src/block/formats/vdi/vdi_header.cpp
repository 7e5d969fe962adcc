#include "block/formats/vdi/vdi_header.h"

#include <fmt/format.h>

#include <cstring>

namespace ostler::block {
namespace {

constexpr std::string_view kText = "<<< Oracle VM VirtualBox Disk Image >>>\n";
constexpr uint32_t kVersion = 0x00010001;
constexpr uint32_t kHeaderBytes = 0x190;  // from its own field on
constexpr uint32_t kLeastHeaderBytes = 0x180;

}  // namespace

Result<VdiHeader> VdiHeader::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  const std::byte* const at = bytes.data();
  const auto word = [&](size_t offset) { return load_le<uint32_t>(at + offset); };
  if (word(kSignatureOffset) != kSignature) return damaged(file, "vdi", "its signature is missing");
  if (word(0x44) != kVersion)
    return cannot(
        file, "vdi",
        fmt::format("it has version {}.{}, only 1.1 is known", word(0x44) >> 16, word(0x44) & 0xffff));
  if (word(0x48) < kLeastHeaderBytes)
    return damaged(
        file, "vdi",
        fmt::format("its header claims {} bytes, {} are the least", word(0x48), kLeastHeaderBytes));
  VdiHeader header;
  header.type = word(0x4c);
  header.map_offset = word(0x154);
  header.data_offset = word(0x158);
  header.disk_bytes = load_le<uint64_t>(at + 0x170);
  header.block_bytes = word(0x178);
  header.blocks = word(0x180);
  header.allocated = word(kAllocatedOffset);
  std::memcpy(header.uuid.data(), at + 0x188, 16);
  std::memcpy(header.last_snapshot.data(), at + 0x198, 16);
  std::memcpy(header.link.data(), at + 0x1a8, 16);
  std::memcpy(header.parent.data(), at + 0x1b8, 16);

  if (header.link != Uuid{} || header.parent != Uuid{} || (header.type != kDynamic && header.type != kStatic))
    return cannot(file, "vdi",
                  "it is a snapshot or a differencing image (merge it with `VBoxManage clonemedium` first)");
  if (word(0x168) != 512)
    return cannot(file, "vdi", fmt::format("its sectors have {} bytes, only 512 are supported", word(0x168)));
  if (word(0x17c) != 0)
    return cannot(file, "vdi", fmt::format("its blocks have {} bytes of extra data", word(0x17c)));
  if (!is_power_of_two(header.block_bytes) || header.block_bytes < 4096 || header.block_bytes > (256u << 20))
    return cannot(
        file, "vdi",
        fmt::format("its blocks have {} bytes; 4 KiB to 256 MiB are supported", header.block_bytes));
  if (header.map_offset % 512 != 0 || header.map_offset < kBytes)
    return damaged(file, "vdi", fmt::format("its block map lies at offset {}", header.map_offset));
  if (header.data_offset % 512 != 0)
    return damaged(file, "vdi", fmt::format("its data begin at offset {}", header.data_offset));
  if (uint64_t{header.blocks} * 4 > kMostMapBytes)
    return cannot(
        file, "vdi",
        fmt::format("its block map has {} entries, {} are supported", header.blocks, kMostMapBytes / 4));
  if (header.map_offset + uint64_t{header.blocks} * 4 > header.data_offset)
    return damaged(file, "vdi",
                   fmt::format("its block map of {} entries at offset {} reaches into the data at offset {}",
                               header.blocks, header.map_offset, header.data_offset));
  if (header.disk_bytes > uint64_t{header.blocks} * header.block_bytes)
    return damaged(file, "vdi",
                   fmt::format("a disk of {} bytes does not fit into {} blocks of {} bytes",
                               header.disk_bytes, header.blocks, header.block_bytes));
  if (header.allocated > header.blocks)
    return damaged(file, "vdi", fmt::format("{} of {} blocks are in use", header.allocated, header.blocks));
  header.disk_bytes = align_up(header.disk_bytes, 512);
  return header;
}

std::array<std::byte, VdiHeader::kBytes> VdiHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  std::memcpy(at, kText.data(), kText.size());
  store_le<uint32_t>(at + kSignatureOffset, kSignature);
  store_le<uint32_t>(at + 0x44, kVersion);
  store_le<uint32_t>(at + 0x48, kHeaderBytes);
  store_le<uint32_t>(at + 0x4c, type);
  store_le<uint32_t>(at + 0x154, map_offset);
  store_le<uint32_t>(at + 0x158, data_offset);
  store_le<uint32_t>(at + 0x168, 512);
  store_le<uint64_t>(at + 0x170, disk_bytes);
  store_le<uint32_t>(at + 0x178, block_bytes);
  store_le<uint32_t>(at + 0x180, blocks);
  store_le<uint32_t>(at + kAllocatedOffset, allocated);
  std::memcpy(at + 0x188, uuid.data(), 16);
  std::memcpy(at + 0x198, last_snapshot.data(), 16);
  return bytes;
}

}  // namespace ostler::block
