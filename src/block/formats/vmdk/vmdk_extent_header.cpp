// Header of a sparse extent, and the layout of a new one.
#include <fmt/format.h>

#include <cstring>

#include "block/formats/vmdk/vmdk_descriptor.h"
#include "block/formats/vmdk/vmdk_extent.h"

namespace ostler::block {
namespace {

constexpr uint16_t kDeflate = 1;
constexpr uint64_t kMostGrainSectors = 32768;  // 16 MiB
constexpr uint32_t kMostTableEntries = 4096;
constexpr uint64_t kSector = 512;

}  // namespace

Result<VmdkExtentHeader> VmdkExtentHeader::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  const std::byte* const at = bytes.data();
  if (load_le<uint32_t>(at) != kMagic) return damaged(file, "vmdk", "its sparse extent has no header");
  VmdkExtentHeader header;
  header.version = load_le<uint32_t>(at + 4);
  header.flags = load_le<uint32_t>(at + 8);
  header.capacity = load_le<uint64_t>(at + 12);
  header.grain = load_le<uint64_t>(at + 20);
  header.descriptor_offset = load_le<uint64_t>(at + 28);
  header.descriptor_size = load_le<uint64_t>(at + 36);
  header.table_entries = load_le<uint32_t>(at + 44);
  header.redundant_directory = load_le<uint64_t>(at + 48);
  header.directory = load_le<uint64_t>(at + 56);
  header.overhead = load_le<uint64_t>(at + 64);
  header.compression = load_le<uint16_t>(at + 77);

  if (header.version < 1 || header.version > 3)
    return cannot(file, "vmdk",
                  fmt::format("its sparse extent has version {}, 1 to 3 are known", header.version));
  if ((header.flags & kFlagNewline) != 0 && std::memcmp(at + 73, "\n \r\n", 4) != 0)
    return damaged(file, "vmdk", "its line ends are changed; it was copied as text");
  if (header.compressed() != (header.compression == kDeflate) || header.compression > kDeflate)
    return cannot(file, "vmdk",
                  fmt::format("its compression is {}, only deflate (1) is known", header.compression));
  if (header.compressed() && (header.flags & kFlagMarkers) == 0)
    return cannot(file, "vmdk", "its grains are compressed without markers");
  if (header.capacity > VmdkDescriptor::kMostSectors)
    return damaged(file, "vmdk", fmt::format("its extent has {} sectors", header.capacity));
  if (!is_power_of_two(header.grain) || header.grain > kMostGrainSectors)
    return damaged(file, "vmdk", fmt::format("its grains have {} sectors", header.grain));
  if (header.table_entries == 0 || header.table_entries > kMostTableEntries)
    return damaged(file, "vmdk", fmt::format("its grain tables have {} entries", header.table_entries));
  const auto in_file = [&](uint64_t sector, uint64_t size) {
    const uint64_t end = file.size();
    return sector <= end / kSector && size <= end - sector * kSector;
  };
  if (header.descriptor_offset != 0 && (header.descriptor_size > VmdkDescriptor::kMostBytes / kSector ||
                                        !in_file(header.descriptor_offset, header.descriptor_size * kSector)))
    return damaged(file, "vmdk", "its descriptor is not within the file");
  if (header.directory != kDirectoryAtEnd) {
    if (header.directory == 0 || !in_file(header.directory, header.directory_entries() * 4))
      return damaged(file, "vmdk",
                     fmt::format("its grain directory of {} entries at sector {} is not within the file",
                                 header.directory_entries(), header.directory));
    if ((header.flags & kFlagRedundant) != 0 && header.redundant_directory != 0 &&
        !in_file(header.redundant_directory, header.directory_entries() * 4))
      return damaged(file, "vmdk", "its redundant grain directory is not within the file");
  }
  return header;
}

std::array<std::byte, VmdkExtentHeader::kBytes> VmdkExtentHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  store_le<uint32_t>(at, kMagic);
  store_le<uint32_t>(at + 4, version);
  store_le<uint32_t>(at + 8, flags);
  store_le<uint64_t>(at + 12, capacity);
  store_le<uint64_t>(at + 20, grain);
  store_le<uint64_t>(at + 28, descriptor_offset);
  store_le<uint64_t>(at + 36, descriptor_size);
  store_le<uint32_t>(at + 44, table_entries);
  store_le<uint64_t>(at + 48, redundant_directory);
  store_le<uint64_t>(at + 56, directory);
  store_le<uint64_t>(at + 64, overhead);
  std::memcpy(at + 73, "\n \r\n", 4);
  store_le<uint16_t>(at + 77, compression);
  return bytes;
}

Task<Result<void>> create_vmdk_extent(Node& file, VmdkExtentHeader& header) {
  if (header.compressed()) {
    header.version = 3;
    header.compression = kDeflate;
  } else if ((header.flags & VmdkExtentHeader::kFlagZeroedGrains) != 0) {
    header.version = 2;
  }
  const uint64_t entries = header.directory_entries();
  const uint64_t directory_sectors = (entries * 4 + kSector - 1) / kSector;
  const uint64_t table_sectors = header.table_entries * 4 / kSector;
  header.redundant_directory = 1 + VmdkExtentHeader::kDescriptorSectors;
  header.directory = header.redundant_directory + directory_sectors + entries * table_sectors;
  header.overhead = align_up(header.directory + directory_sectors + entries * table_sectors, header.grain);
  CO_TRY(co_await zero_image(file, 0, header.overhead * kSector));
  const uint64_t directories[] = {header.redundant_directory, header.directory};
  for (const uint64_t directory : directories) {
    std::vector<uint32_t> tables(directory_sectors * kSector / 4);
    for (uint64_t i = 0; i < entries; ++i)
      tables[i] = static_cast<uint32_t>(directory + directory_sectors + i * table_sectors);
    if (!tables.empty())
      CO_TRY(co_await write_image(file, directory * kSector, tables.data(), tables.size() * 4));
  }
  const auto bytes = header.encode();
  co_return co_await write_image(file, 0, bytes.data(), bytes.size());
}

}  // namespace ostler::block
