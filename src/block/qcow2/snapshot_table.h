// The table of snapshots: parsing and writing its entries.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/capabilities.h"
#include "block/qcow2/format.h"

namespace ostler::block::qcow2 {

// A snapshot as the table has it.
struct Stored {
  SnapshotInfo info;
  uint64_t l1_offset = 0;
  uint32_t l1_entries = 0;
  std::vector<std::byte> more_extra;  // extra data that this version does not know
};

// `count` entries; `disk_bytes` is the size of snapshots that do not say theirs. Errors begin with `name`.
Result<std::vector<Stored>> parse_snapshots(std::span<const std::byte> bytes, uint32_t count,
                                            uint64_t disk_bytes, const std::string& name);
std::vector<std::byte> serialize_snapshots(const std::vector<Stored>& snapshots);
// Length of the entry at the beginning of `bytes` (at least its first 40), 8-aligned.
size_t snapshot_entry_bytes(std::span<const std::byte> bytes);

}  // namespace ostler::block::qcow2
