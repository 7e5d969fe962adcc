#include "block/formats/vhdx/vhdx_layout.h"

#include <fmt/format.h>

#include <cstring>

#include "block/formats/vhdx/vhdx_header.h"

namespace ostler::block {
namespace {

constexpr uint64_t kRegionTables[] = {192 << 10, 256 << 10};
constexpr size_t kTableBytes = 64 << 10;
constexpr uint32_t kMostEntries = 2047;
constexpr uint32_t kRequired = 1;                        // flag of a region
constexpr uint32_t kItemDisk = 2, kItemRequired = 4;     // flags of a metadata item
constexpr uint32_t kLeaveAllocated = 1, kHasParent = 2;  // flags of the file parameters

// GUIDs as they lie in the file: the first three fields little-endian.
constexpr Uuid kBat = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                       0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
constexpr Uuid kMetadata = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                            0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
constexpr Uuid kFileParameters = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                  0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
constexpr Uuid kDiskSize = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                            0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8};
constexpr Uuid kDiskId = {0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                          0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46};
constexpr Uuid kLogicalSector = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f};
constexpr Uuid kPhysicalSector = {0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                  0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56};
constexpr Uuid kParentLocator = {0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
                                 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c};

Uuid uuid_at(const std::byte* from) {
  Uuid uuid;
  std::memcpy(uuid.data(), from, uuid.size());
  return uuid;
}

bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

Task<Result<void>> read_regions(Node& file, VhdxLayout& layout) {
  std::vector<std::byte> table(kTableBytes);
  bool found = false;
  for (const uint64_t offset : kRegionTables) {
    CO_TRY(co_await read_image(file, offset, table.data(), table.size()));
    found = std::memcmp(table.data(), "regi", 4) == 0 &&
            load_le<uint32_t>(table.data() + 4) == vhdx_checksum(table);
    if (found) break;
  }
  if (!found) co_return damaged(file, "vhdx", "neither of its region tables has a right checksum");
  const auto count = load_le<uint32_t>(table.data() + 8);
  if (count > kMostEntries)
    co_return damaged(file, "vhdx", fmt::format("its region table has {} entries", count));
  for (uint32_t i = 0; i < count; ++i) {
    const std::byte* const entry = table.data() + 16 + i * 32;
    const Uuid id = uuid_at(entry);
    const auto offset = load_le<uint64_t>(entry + 16);
    const auto bytes = load_le<uint32_t>(entry + 24);
    if (offset % VhdxLayout::kMegabyte != 0 || offset < VhdxLayout::kMegabyte ||
        bytes % VhdxLayout::kMegabyte != 0 || bytes == 0 || offset > file.size() ||
        bytes > file.size() - offset)
      co_return damaged(
          file, "vhdx",
          fmt::format("a region of {} bytes at offset {} is not within the file", bytes, offset));
    if (id == kBat && layout.table_bytes == 0) {
      layout.table_offset = offset;
      layout.table_bytes = bytes;
    } else if (id == kMetadata && layout.metadata_bytes == 0) {
      layout.metadata_offset = offset;
      layout.metadata_bytes = bytes;
    } else if (id == kBat || id == kMetadata) {
      co_return damaged(file, "vhdx", "a region is there twice");
    } else if ((load_le<uint32_t>(entry + 28) & kRequired) != 0) {
      co_return cannot(file, "vhdx", "it needs an unknown region " + uuid_text(id));
    }
  }
  if (layout.table_bytes == 0 || layout.metadata_bytes == 0)
    co_return damaged(file, "vhdx", "its region table lacks the block allocation table or the metadata");
  if (overlap(layout.table_offset, layout.table_bytes, layout.metadata_offset, layout.metadata_bytes))
    co_return damaged(file, "vhdx", "the block allocation table and the metadata overlap");
  co_return Result<void>();
}

// One item of the metadata; its value is in `value`.
Result<void> take_item(const Node& file, VhdxLayout& layout, const Uuid& id, uint32_t flags,
                       std::span<const std::byte> value, unsigned& seen) {
  const auto need = [&](size_t bytes) -> Result<void> {
    if (value.size() >= bytes) return {};
    return damaged(file, "vhdx",
                   fmt::format("its metadata item {} has {} bytes", uuid_text(id), value.size()));
  };
  if (id == kFileParameters) {
    TRY(need(8));
    layout.block_bytes = load_le<uint32_t>(value.data());
    const auto parameters = load_le<uint32_t>(value.data() + 4);
    layout.leave_allocated = (parameters & kLeaveAllocated) != 0;
    if ((parameters & kHasParent) != 0)
      return cannot(file, "vhdx", "it is a differencing disk; merge it into its parent first");
    seen |= 1;
  } else if (id == kDiskSize) {
    TRY(need(8));
    layout.disk_bytes = load_le<uint64_t>(value.data());
    seen |= 2;
  } else if (id == kLogicalSector) {
    TRY(need(4));
    layout.logical_sector = load_le<uint32_t>(value.data());
    seen |= 4;
  } else if (id == kPhysicalSector) {
    TRY(need(4));
    layout.physical_sector = load_le<uint32_t>(value.data());
  } else if (id == kDiskId) {
    TRY(need(16));
    layout.disk_id = uuid_at(value.data());
  } else if (id == kParentLocator) {
    return cannot(file, "vhdx", "it is a differencing disk; merge it into its parent first");
  } else if ((flags & kItemRequired) != 0) {
    return cannot(file, "vhdx", "it needs unknown metadata " + uuid_text(id));
  }
  return {};
}

Task<Result<void>> read_metadata(Node& file, VhdxLayout& layout) {
  std::vector<std::byte> table(kTableBytes);
  CO_TRY(co_await read_image(file, layout.metadata_offset, table.data(), table.size()));
  const auto count = load_le<uint16_t>(table.data() + 10);
  if (std::memcmp(table.data(), "metadata", 8) != 0 || count > kMostEntries)
    co_return damaged(file, "vhdx", "its metadata table has no signature or too many entries");
  unsigned seen = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const std::byte* const entry = table.data() + 32 + i * 32;
    const Uuid id = uuid_at(entry);
    const auto offset = load_le<uint32_t>(entry + 16), bytes = load_le<uint32_t>(entry + 20);
    if ((bytes != 0 && offset < kTableBytes) || offset > layout.metadata_bytes ||
        bytes > layout.metadata_bytes - offset)
      co_return damaged(file, "vhdx",
                        fmt::format("its metadata item {} is not within its region", uuid_text(id)));
    std::array<std::byte, 64> value{};
    const size_t some = std::min<size_t>(bytes, value.size());
    CO_TRY(co_await read_image(file, layout.metadata_offset + offset, value.data(), some));
    const std::span<const std::byte> part(value.data(), some);
    CO_TRY(take_item(file, layout, id, load_le<uint32_t>(entry + 24), part, seen));
  }
  if (seen != 7)
    co_return damaged(file, "vhdx",
                      "its metadata lack the size of the disk, of its blocks or of its sectors");
  co_return Result<void>();
}

}  // namespace

Task<Result<VhdxLayout>> VhdxLayout::read(Node& file) {
  VhdxLayout layout;
  CO_TRY(co_await read_regions(file, layout));
  CO_TRY(co_await read_metadata(file, layout));
  if (!is_power_of_two(layout.block_bytes) || layout.block_bytes < kLeastBlock ||
      layout.block_bytes > kMostBlock)
    co_return damaged(file, "vhdx", fmt::format("its blocks have {} bytes", layout.block_bytes));
  if (layout.logical_sector != 512 && layout.logical_sector != 4096)
    co_return damaged(file, "vhdx", fmt::format("its sectors have {} bytes", layout.logical_sector));
  if (layout.disk_bytes > kMostDisk || layout.disk_bytes % layout.logical_sector != 0)
    co_return damaged(file, "vhdx", fmt::format("its size is {} bytes", layout.disk_bytes));
  if (layout.entries() * 8 > layout.table_bytes)
    co_return damaged(file, "vhdx",
                      fmt::format("its block allocation table has {} bytes; a disk of {} bytes needs {}",
                                  layout.table_bytes, layout.disk_bytes, layout.entries() * 8));
  co_return layout;
}

Task<Result<void>> VhdxLayout::write(Node& file) const {
  std::vector<std::byte> regions(kTableBytes);
  std::byte* at = regions.data();
  std::memcpy(at, "regi", 4);
  store_le<uint32_t>(at + 8, 2);
  std::memcpy(at + 16, kBat.data(), 16);
  store_le<uint64_t>(at + 32, table_offset);
  store_le<uint32_t>(at + 40, static_cast<uint32_t>(table_bytes));
  store_le<uint32_t>(at + 44, kRequired);
  std::memcpy(at + 48, kMetadata.data(), 16);
  store_le<uint64_t>(at + 64, metadata_offset);
  store_le<uint32_t>(at + 72, static_cast<uint32_t>(metadata_bytes));
  store_le<uint32_t>(at + 76, kRequired);
  store_le<uint32_t>(at + 4, vhdx_checksum(regions));
  for (const uint64_t offset : kRegionTables)
    CO_TRY(co_await write_image(file, offset, regions.data(), regions.size()));

  struct Item {
    Uuid id;
    uint32_t offset, bytes, flags;
  };
  const std::array<Item, 5> items = {Item{kFileParameters, 0, 8, kItemRequired},
                                     Item{kDiskSize, 8, 8, kItemRequired | kItemDisk},
                                     Item{kDiskId, 16, 16, kItemRequired | kItemDisk},
                                     Item{kLogicalSector, 32, 4, kItemRequired | kItemDisk},
                                     Item{kPhysicalSector, 36, 4, kItemRequired | kItemDisk}};
  std::vector<std::byte> metadata(kTableBytes + 4096);
  at = metadata.data();
  std::memcpy(at, "metadata", 8);
  store_le<uint16_t>(at + 10, items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    std::byte* const entry = at + 32 + i * 32;
    std::memcpy(entry, items[i].id.data(), 16);
    store_le<uint32_t>(entry + 16, static_cast<uint32_t>(kTableBytes) + items[i].offset);
    store_le<uint32_t>(entry + 20, items[i].bytes);
    store_le<uint32_t>(entry + 24, items[i].flags);
  }
  std::byte* const values = at + kTableBytes;
  store_le<uint32_t>(values, block_bytes);
  store_le<uint32_t>(values + 4, leave_allocated ? kLeaveAllocated : 0);
  store_le<uint64_t>(values + 8, disk_bytes);
  std::memcpy(values + 16, disk_id.data(), 16);
  store_le<uint32_t>(values + 32, logical_sector);
  store_le<uint32_t>(values + 36, physical_sector);
  co_return co_await write_image(file, metadata_offset, metadata.data(), metadata.size());
}

}  // namespace ostler::block
