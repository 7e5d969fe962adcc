// The format "vhdx" (Hyper-V), fixed and dynamic.
//
// Power cuts: data reach the file before the entry of the block allocation table (8 bytes, never torn) that
// points to them, so that no change needs the log. A log that another program has left is replayed when the
// image is opened for writing.
#pragma once

#include "block/formats/mapped/mapped_node.h"
#include "block/formats/vhdx/vhdx_header.h"
#include "block/formats/vhdx/vhdx_layout.h"

namespace ostler::block {

class VhdxNode final : public MappedNode {
 public:
  // States of a block, the low bits of its entry; the high ones are its place in the file.
  static constexpr uint64_t kNotPresent = 0, kUndefined = 1, kZeroBlock = 2, kUnmapped = 3, kPresent = 6;
  static constexpr uint64_t kStateMask = 7, kOffsetMask = ~uint64_t{0xfffff};

  static Task<Result<std::shared_ptr<VhdxNode>>> open(NodePtr file, bool read_only);
  explicit VhdxNode(bool read_only) : MappedNode("vhdx", read_only) {}

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<Result<void>> reopen(bool writable) override;

 protected:
  Task<int> find(uint64_t cluster, Place& place) override;
  Task<int> reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) override;
  Task<int> publish(uint64_t cluster, uint64_t count, uint64_t offset) override;
  Task<Result<void>> prepare_writing() override;

 private:
  // Tells other programs, by new ids in the header, that the file and the disk's content have changed.
  Task<int> announce_change();

  VhdxHeader header_;
  VhdxLayout layout_;
  std::atomic<bool> announced_{false};
  uint64_t next_ = 0;  // of allocation(): where new blocks go
};

}  // namespace ostler::block
