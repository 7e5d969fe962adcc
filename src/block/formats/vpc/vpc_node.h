// The format "vpc" (VHD, Virtual PC and Hyper-V), fixed and dynamic. A block of a dynamic disk lies behind a
// bitmap of its sectors; the footer moves to the end when the file grows, a copy of it is at the beginning.
#pragma once

#include "block/formats/mapped/mapped_node.h"
#include "block/formats/vpc/vhd_footer.h"

namespace ostler::block {

class VpcNode final : public MappedNode {
 public:
  static Task<Result<std::shared_ptr<VpcNode>>> open(NodePtr file, bool read_only);
  explicit VpcNode(bool read_only) : MappedNode("vpc", read_only) {}

  Limits limits() const override;

 protected:
  Task<int> find(uint64_t cluster, Place& place) override;
  Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) override;
  Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) override;
  Task<Result<void>> prepare_writing() override;
  bool fixed() const override { return !dynamic(); }

 private:
  bool dynamic() const { return footer_.type == VhdFooter::kDynamic; }
  // Bytes of the bitmap before each block.
  uint64_t bitmap_bytes() const { return align_up(header_.block_bytes / 512 / 8, 512); }

  VhdFooter footer_;
  VhdHeader header_;
  std::array<std::byte, VhdFooter::kBytes> footer_bytes_{};
  uint64_t next_ = 0;  // of allocation(): where the next block's bitmap goes
};

}  // namespace ostler::block
