// The header of a qcow2 image and its extensions.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/qcow2/format.h"

namespace ostler::block::qcow2 {

struct Extension {
  uint32_t type;
  std::vector<std::byte> data;
};

struct Header {
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint64_t size = 0;        // virtual, bytes
  uint32_t encryption = 0;  // method: 0 none, 1 AES, 2 LUKS
  uint32_t l1_entries = 0;
  uint64_t l1_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t snapshot_count = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible = 0, compatible = 0, autoclear = 0;
  uint32_t refcount_order = 4;            // refcounts have 1 << order bits
  uint8_t compression = 0;                // 0 zlib, 1 zstd
  std::vector<std::byte> unknown_fields;  // behind the fields known here

  std::string backing_file, backing_format, data_file;
  struct Bitmaps {
    uint32_t count = 0;
    uint64_t directory_bytes = 0, directory_offset = 0;
  } bitmaps;
  struct EncryptionHeader {
    uint64_t offset = 0, bytes = 0;
  } encryption_header;                      // of method 2, LUKS
  std::vector<Extension> other_extensions;  // kept as they are

  uint64_t cluster_bytes() const { return uint64_t{1} << cluster_bits; }
  bool has(Incompatible bit) const { return (incompatible & bit) != 0; }
  unsigned l2_entry_bytes() const { return has(kExtendedL2) ? 16 : 8; }
  // Guest bytes that one L2 table covers.
  uint64_t l2_coverage() const { return cluster_bytes() / l2_entry_bytes() * cluster_bytes(); }
  // Entries of the L1 table that `bytes` of virtual disk need.
  uint64_t l1_entries_for(uint64_t bytes) const {
    return bytes / l2_coverage() + (bytes % l2_coverage() != 0);
  }

  // From the beginning of the file, the whole first cluster or the whole file if it is shorter. `name` begins
  // the messages. Everything is checked that can be without the rest of the file; unknown incompatible
  // features are refused by the names that the image has for them.
  static Result<Header> parse(std::span<const std::byte> bytes, const std::string& name);
  // The first cluster. An error if it does not fit.
  Result<std::vector<std::byte>> serialize(const std::string& name) const;
};

}  // namespace ostler::block::qcow2
