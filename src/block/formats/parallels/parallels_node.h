// The format "parallels" (Parallels Desktop, Virtuozzo): a header of 64 bytes, a table of 32-bit places,
// clusters. Older images ("WithoutFreeSpace") count places in sectors, newer ones ("WithouFreSpacExt") in
// clusters. Source: the description of the format that Parallels published, and images as they are written.
#pragma once

#include "block/formats/mapped/image_file.h"
#include "block/formats/mapped/mapped_node.h"

namespace ostler::block {

struct ParallelsHeader {
  static constexpr size_t kBytes = 64;
  static constexpr uint32_t kInUse = 0x746f6e59;
  static constexpr size_t kInUseOffset = 44, kExtensionOffset = 56;
  static constexpr uint64_t kMostTableBytes = uint64_t{256} << 20;

  bool extended = true;  // places count clusters
  uint32_t heads = 16;
  uint32_t cylinders = 0;
  uint32_t cluster_sectors = 2048;
  uint32_t entries = 0;
  uint64_t sectors = 0;
  uint32_t in_use = 0;
  uint32_t data_sector = 0;  // 0 in older images: right behind the table
  uint32_t flags = 0;
  uint64_t extension = 0;  // sector of an extension block, with bitmaps of changes

  static bool recognised(std::span<const std::byte> head);
  static Result<ParallelsHeader> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
  std::array<std::byte, kBytes> encode() const;
};

class ParallelsNode final : public MappedNode {
 public:
  static Task<Result<std::shared_ptr<ParallelsNode>>> open(NodePtr file, bool read_only);
  explicit ParallelsNode(bool read_only) : MappedNode("parallels", read_only) {}

  bool dirty() const override { return header_.in_use == ParallelsHeader::kInUse; }
  Task<Result<void>> reopen(bool writable) override;
  Task<Result<void>> close() override;

 protected:
  Task<int> find(uint64_t cluster, Place& place) override;
  Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) override;
  Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) override;
  Task<Result<void>> prepare_writing() override;

 private:
  Task<Result<void>> store_header();
  uint64_t unit() const { return header_.extended ? cluster_bytes() : 512; }  // of an entry
  ParallelsHeader header_;
  uint64_t next_ = 0;    // of allocation()
  bool marked_ = false;  // of allocation(): in use, by us
};

}  // namespace ostler::block
