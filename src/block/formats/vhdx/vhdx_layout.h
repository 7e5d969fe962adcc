// Regions and metadata of a VHDX file: where the block allocation table (BAT) is, how large disk and blocks
// are. Source: "VHDX Format Specification" 1.00, §2.2.3, §2.6.
#pragma once

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct VhdxLayout {
  static constexpr uint64_t kMegabyte = 1 << 20;
  static constexpr uint64_t kLeastBlock = 1 << 20, kMostBlock = 256 << 20;
  static constexpr uint64_t kMostDisk = uint64_t{64} << 40;

  uint64_t table_offset = 0, table_bytes = 0;        // of the BAT's region
  uint64_t metadata_offset = 0, metadata_bytes = 0;  // of the region
  uint64_t disk_bytes = 0;
  uint32_t block_bytes = 0;
  bool leave_allocated = false;  // a fixed disk
  uint32_t logical_sector = 512, physical_sector = 512;
  Uuid disk_id{};

  // How many payload blocks one sector bitmap block describes; that many entries come before its own.
  uint64_t chunk_ratio() const { return (uint64_t{1} << 23) * logical_sector / block_bytes; }
  uint64_t blocks() const { return (disk_bytes + block_bytes - 1) / block_bytes; }
  uint64_t entry_of(uint64_t block) const { return block + block / chunk_ratio(); }
  uint64_t entries() const { return blocks() == 0 ? 0 : entry_of(blocks() - 1) + 1; }

  static Task<Result<VhdxLayout>> read(Node& file);
  Task<Result<void>> write(Node& file) const;
};

}  // namespace ostler::block
