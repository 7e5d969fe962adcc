// A sparse extent of a VMDK image ("KDMV"): a directory of tables of 32-bit sector numbers of grains.
// Grains of a stream-optimized extent are deflated, each behind a marker.
// Source: VMware, "Virtual Disk Format 5.0" (2011), "Hosted Sparse Extents", "Stream-Optimized Compressed
// Sparse Extents".
#pragma once

#include "block/formats/mapped/image_file.h"
#include "block/formats/mapped/mapped_node.h"

namespace ostler::block {

struct VmdkExtentHeader {
  static constexpr size_t kBytes = 512;
  static constexpr uint32_t kMagic = 0x564d444b;  // "KDMV"
  static constexpr uint32_t kFlagNewline = 1, kFlagRedundant = 2, kFlagZeroedGrains = 4;
  static constexpr uint32_t kFlagCompressed = 1u << 16, kFlagMarkers = 1u << 17;
  static constexpr uint64_t kDirectoryAtEnd = ~uint64_t{0};
  static constexpr uint64_t kDescriptorSectors = 20;

  // All in sectors of 512 bytes, but for the entries.
  uint32_t version = 1;
  uint32_t flags = kFlagNewline | kFlagRedundant;
  uint64_t capacity = 0;
  uint64_t grain = 128;
  uint64_t descriptor_offset = 0;
  uint64_t descriptor_size = 0;
  uint32_t table_entries = 512;
  uint64_t redundant_directory = 0;
  uint64_t directory = 0;
  uint64_t overhead = 0;
  uint16_t compression = 0;

  bool compressed() const { return (flags & kFlagCompressed) != 0; }
  uint64_t directory_entries() const {
    const uint64_t each = grain * table_entries;
    return (capacity + each - 1) / each;
  }
  static Result<VmdkExtentHeader> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
  std::array<std::byte, kBytes> encode() const;
};

// Lays out directory and tables of an empty extent in `header` and writes them to `file`.
Task<Result<void>> create_vmdk_extent(Node& file, VmdkExtentHeader& header);

class VmdkExtent final : public MappedNode {
 public:
  static Task<Result<std::shared_ptr<VmdkExtent>>> open(NodePtr file, bool read_only);
  explicit VmdkExtent(bool read_only) : MappedNode("vmdk-extent", read_only) {}

  const VmdkExtentHeader& header() const { return header_; }
  // What absent grains show: `below`'s bytes from `offset` on. Drained.
  void set_below(Node* below, uint64_t offset) {
    below_ = below;
    below_offset_ = offset;
  }

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  Task<Result<void>> close() override;

 protected:
  Task<int> find(uint64_t cluster, Place& place) override;
  Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) override;
  Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) override;
  Task<int> publish_zero(uint64_t cluster, uint64_t count) override;
  Task<int> read_packed(uint64_t cluster, Place place, std::byte* to) override;
  Task<Result<void>> prepare_writing() override;
  Node* below() const override { return below_; }
  uint64_t below_offset() const override { return below_offset_; }

 private:
  Task<int> write_grain_packed(uint64_t offset, Buffers from);
  Task<int> append_packed(uint64_t grain, const std::byte* content);
  // Where the table of `cluster` is in the file, 0 if there is none. `directory`: of the two.
  Task<int> table_of(uint64_t cluster, uint64_t directory, uint64_t& offset);
  Task<int> need_table(uint64_t cluster, uint64_t directory, uint64_t& offset);
  Task<int> write_entries(uint64_t cluster, const std::vector<uint32_t>& entries);

  VmdkExtentHeader header_;
  Node* below_ = nullptr;
  uint64_t below_offset_ = 0;
  uint64_t next_ = 0;      // of allocation(): where new space begins, bytes
  bool appended_ = false;  // of allocation()
};

}  // namespace ostler::block
