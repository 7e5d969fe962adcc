// The header of a QED image: little-endian fields at the beginning of the file.
// Source: the QED specification that QEMU publishes ("QED Image File Format", docs/interop).
#pragma once

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct QedHeader {
  static constexpr size_t kBytes = 64;
  static constexpr uint32_t kMagic = 0x00444551;                              // "QED\0"
  static constexpr uint64_t kBacking = 1, kNeedCheck = 2, kBackingIsRaw = 4;  // features

  uint32_t cluster_bytes = 65536;
  uint32_t table_clusters = 4;
  uint32_t header_clusters = 1;
  uint64_t features = 0;
  uint64_t compatible_features = 0;
  uint64_t autoclear_features = 0;
  uint64_t l1_offset = 0;
  uint64_t disk_bytes = 0;
  uint32_t backing_offset = 0;  // of its name
  uint32_t backing_bytes = 0;

  uint64_t table_bytes() const { return uint64_t{table_clusters} * cluster_bytes; }
  uint64_t table_entries() const { return table_bytes() / 8; }
  // What two levels of tables reach, bytes; 0: 16 EiB or more.
  uint64_t reach_bytes() const {
    uint64_t reach = 0;
    const bool too_many =
        __builtin_mul_overflow(table_entries() * table_entries(), uint64_t{cluster_bytes}, &reach);
    return too_many ? 0 : reach;
  }
  uint64_t most_bytes() const {
    constexpr uint64_t kMost = uint64_t{1} << 62;
    const uint64_t reach = reach_bytes();
    return reach == 0 || reach > kMost ? kMost : reach;
  }

  static Result<QedHeader> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
  std::array<std::byte, kBytes> encode() const;
};

}  // namespace ostler::block
