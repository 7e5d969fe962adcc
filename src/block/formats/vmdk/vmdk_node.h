// The format "vmdk" (VMware): extents in a row, sparse or flat, in one file or several, and a parent image.
//
// A change to an image gives it a new content id (CID); an image on top of it keeps the CID it was made on
// and is refused when that is another now.
#pragma once

#include <atomic>
#include <vector>

#include "block/driver.h"
#include "block/formats/vmdk/vmdk_descriptor.h"
#include "block/formats/vmdk/vmdk_extent.h"

namespace ostler::block {

class VmdkNode final : public Node {
 public:
  static Task<Result<NodePtr>> open(OpenRequest request);
  explicit VmdkNode(bool read_only) : Node("vmdk"), read_only_(read_only) {}

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> flush() override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> reopen(bool writable) override;

  uint64_t size() const override { return extents_.empty() ? 0 : extents_.back().end; }
  bool read_only() const override { return read_only_; }
  Limits limits() const override;
  bool new_space_is_zero() const override { return !backing_; }
  bool compresses() const override;
  int64_t allocated_bytes() const override;
  nlohmann::json format_specific_info() const override;
  nlohmann::json options() const override;
  std::string backing_file_name() const override { return descriptor_.parent_hint; }
  std::string backing_file_format() const override { return descriptor_.parent_hint.empty() ? "" : "vmdk"; }
  std::vector<const Edge*> children() const override;
  Result<void> set_backing(NodePtr node) override;
  Checker* checker() override;
  uint32_t cid() const { return descriptor_.cid; }

 private:
  struct Extent {
    uint64_t begin = 0, end = 0;   // of the disk, bytes
    uint64_t file_offset = 0;      // of a flat one: where it begins in its file
    VmdkExtent* sparse = nullptr;  // null: flat
    std::string type;              // as the descriptor has it
    Edge node;                     // the sparse extent or the flat file
  };
  class ExtentsChecker;

  Task<Result<void>> open_extents(OpenRequest& request);
  Task<Result<void>> open_parent(OpenRequest& request);
  Result<void> add_sparse(std::shared_ptr<VmdkExtent> extent, std::string type);
  Result<void> add_flat(NodePtr file, const VmdkDescriptor::Extent& line);
  Result<Edge> attach(NodePtr node, std::string name, Role role);
  void connect_below();
  const Extent& extent_at(uint64_t offset) const;
  static NodePtr file_of(const Extent& extent);
  Task<int> for_extents(uint64_t offset, Buffers buffers, int kind);
  // Gives the image a new CID before its first change.
  Task<int> change_cid();

  bool read_only_;
  VmdkDescriptor descriptor_;
  std::string text_;          // the descriptor
  uint64_t text_offset_ = 0;  // in file_, bytes
  Edge file_, backing_;
  std::vector<Extent> extents_;
  std::atomic<bool> changed_{false};
  Mutex changing_;
  std::shared_ptr<ExtentsChecker> checker_;
};

}  // namespace ostler::block
