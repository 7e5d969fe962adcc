#include "block/formats/vpc/vhd_footer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ostler::block {
namespace {

constexpr size_t kFooterChecksum = 64, kHeaderChecksum = 36;
constexpr uint32_t kVersion = 0x00010000;
constexpr uint64_t kSector = 512;

// One's complement of the sum of all bytes but its own.
uint32_t checksum(std::span<const std::byte> bytes, size_t place) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i)
    if (i < place || i >= place + 4) sum += static_cast<uint8_t>(bytes[i]);
  return ~sum;
}

}  // namespace

VhdGeometry VhdGeometry::of(uint64_t sectors) {
  sectors = std::min(sectors, kMostSectors);
  uint64_t heads, per_track, tracks;
  if (sectors >= uint64_t{65535} * 16 * 63) {
    per_track = 255;
    heads = 16;
    tracks = sectors / per_track;
  } else {
    per_track = 17;
    tracks = sectors / per_track;
    heads = std::max<uint64_t>((tracks + 1023) / 1024, 4);
    if (tracks >= heads * 1024 || heads > 16) {
      per_track = 31;
      heads = 16;
      tracks = sectors / per_track;
    }
    if (tracks >= heads * 1024) {
      per_track = 63;
      heads = 16;
      tracks = sectors / per_track;
    }
  }
  return {static_cast<uint16_t>(tracks / heads), static_cast<uint8_t>(heads),
          static_cast<uint8_t>(per_track)};
}

bool VhdFooter::recognised(std::span<const std::byte, kBytes> bytes) {
  return std::memcmp(bytes.data(), "conectix", 8) == 0 &&
         load_be<uint32_t>(bytes.data() + kFooterChecksum) == checksum(bytes, kFooterChecksum);
}

Result<VhdFooter> VhdFooter::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  const std::byte* const at = bytes.data();
  if (!recognised(bytes)) return damaged(file, "vpc", "its footer is missing or its checksum is wrong");
  if (load_be<uint32_t>(at + 12) >> 16 != kVersion >> 16)
    return cannot(file, "vpc",
                  fmt::format("it has version {:#x}, only 1.0 is known", load_be<uint32_t>(at + 12)));
  VhdFooter footer;
  footer.header_offset = load_be<uint64_t>(at + 16);
  footer.timestamp = load_be<uint32_t>(at + 24);
  footer.creator.assign(reinterpret_cast<const char*>(at + 28), 4);
  footer.original_bytes = load_be<uint64_t>(at + 40);
  footer.current_bytes = load_be<uint64_t>(at + 48);
  footer.geometry = {load_be<uint16_t>(at + 56), static_cast<uint8_t>(at[58]), static_cast<uint8_t>(at[59])};
  footer.type = load_be<uint32_t>(at + 60);
  std::memcpy(footer.uuid.data(), at + 68, 16);
  if (footer.type == kDifferencing)
    return cannot(file, "vpc", "it is a differencing disk; merge it into its parent first");
  if (footer.type != kFixed && footer.type != kDynamic)
    return damaged(file, "vpc", fmt::format("its type is {}", footer.type));
  if (footer.disk_bytes() > uint64_t{1} << 53)
    return damaged(file, "vpc", fmt::format("its size is {} bytes", footer.disk_bytes()));
  return footer;
}

std::array<std::byte, VhdFooter::kBytes> VhdFooter::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  std::memcpy(at, "conectix", 8);
  store_be<uint32_t>(at + 8, 2);  // a reserved feature that is always set
  store_be<uint32_t>(at + 12, kVersion);
  store_be<uint64_t>(at + 16, header_offset);
  store_be<uint32_t>(at + 24, timestamp);
  std::memcpy(at + 28, creator.data(), std::min<size_t>(creator.size(), 4));
  store_be<uint32_t>(at + 32, 0x00050003);
  std::memcpy(at + 36, "Wi2k", 4);
  store_be<uint64_t>(at + 40, original_bytes);
  store_be<uint64_t>(at + 48, current_bytes);
  store_be<uint16_t>(at + 56, geometry.cylinders);
  at[58] = std::byte{geometry.heads};
  at[59] = std::byte{geometry.sectors};
  store_be<uint32_t>(at + 60, type);
  std::memcpy(at + 68, uuid.data(), 16);
  store_be<uint32_t>(at + kFooterChecksum, checksum(bytes, kFooterChecksum));
  return bytes;
}

uint64_t VhdFooter::disk_bytes() const {
  // Hyper-V, disk2vhd, XenServer, XenConverter, Azure and images with an exact size.
  static constexpr std::string_view kExact[] = {"win ", "d2v ", {"tap\0", 4}, "CTXS", {"wa\0\0", 4}, "qem2"};
  const bool exact = std::ranges::find(kExact, std::string_view(creator)) != std::end(kExact);
  // A geometry at its limit tells nothing.
  if (exact || geometry.total() >= VhdGeometry::kMostSectors || geometry.total() == 0)
    return current_bytes / kSector * kSector;
  return geometry.total() * kSector;
}

Result<VhdHeader> VhdHeader::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  const std::byte* const at = bytes.data();
  if (std::memcmp(at, "cxsparse", 8) != 0)
    return damaged(file, "vpc", "the header of the dynamic disk is missing");
  if (load_be<uint32_t>(at + kHeaderChecksum) != checksum(bytes, kHeaderChecksum))
    return damaged(file, "vpc", "the checksum of the dynamic disk's header is wrong");
  VhdHeader header;
  header.table_offset = load_be<uint64_t>(at + 16);
  header.entries = load_be<uint32_t>(at + 28);
  header.block_bytes = load_be<uint32_t>(at + 32);
  if (load_be<uint32_t>(at + 24) >> 16 != kVersion >> 16)
    return cannot(file, "vpc", fmt::format("its header has version {:#x}", load_be<uint32_t>(at + 24)));
  if (!is_power_of_two(header.block_bytes) || header.block_bytes < 4096 || header.block_bytes > (256u << 20))
    return cannot(file, "vpc",
                  fmt::format("its blocks have {} bytes; powers of two from 4 KiB to 256 MiB are supported",
                              header.block_bytes));
  if (header.entries * uint64_t{4} > kMostTableBytes)
    return cannot(
        file, "vpc",
        fmt::format("its block table has {} entries, {} are supported", header.entries, kMostTableBytes / 4));
  const uint64_t table_bytes = header.entries * uint64_t{4};
  if (header.table_offset % kSector != 0 || header.table_offset > file.size() ||
      table_bytes > file.size() - header.table_offset)
    return damaged(file, "vpc",
                   fmt::format("its block table of {} entries at offset {} is not within the file",
                               header.entries, header.table_offset));
  return header;
}

std::array<std::byte, VhdHeader::kBytes> VhdHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  std::memcpy(at, "cxsparse", 8);
  store_be<uint64_t>(at + 8, ~uint64_t{0});
  store_be<uint64_t>(at + 16, table_offset);
  store_be<uint32_t>(at + 24, kVersion);
  store_be<uint32_t>(at + 28, entries);
  store_be<uint32_t>(at + 32, block_bytes);
  store_be<uint32_t>(at + kHeaderChecksum, checksum(bytes, kHeaderChecksum));
  return bytes;
}

}  // namespace ostler::block
