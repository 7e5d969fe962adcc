// A node that passes everything on to one child, the base of filters.
#pragma once

#include "block/node.h"

namespace ostler::block {

class FilterNode : public Node {
 public:
  FilterNode(std::string driver, std::string child_name);
  // Before use: the child and the permissions that this node takes on it.
  Result<void> connect(NodePtr child, Permissions permissions);

  Task<int> read(uint64_t offset, Buffers to) override { return child_->read(offset, to); }
  Task<int> write(uint64_t offset, Buffers from) override { return child_->write(offset, from); }
  Task<int> flush() override { return child_->flush(); }
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override {
    return child_->write_zeroes(offset, bytes, flags);
  }
  Task<int> discard(uint64_t offset, uint64_t bytes) override { return child_->discard(offset, bytes); }
  Task<int> write_compressed(uint64_t offset, Buffers from) override {
    return child_->write_compressed(offset, from);
  }
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override {
    return child_->block_status(offset, bytes, detail, status);
  }
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override {
    return child_->truncate(size, preallocation);
  }
  Task<Result<void>> reopen(bool writable) override { return child_->reopen(writable); }

  uint64_t size() const override { return child_->size(); }
  bool read_only() const override { return child_->read_only(); }
  Limits limits() const override { return child_->limits(); }
  bool new_space_is_zero() const override { return child_->new_space_is_zero(); }
  bool compresses() const override { return child_->compresses(); }
  std::vector<const Edge*> children() const override { return {&child_}; }
  Edge& child_edge() { return child_; }

 protected:
  Edge child_;

 private:
  const std::string child_name_;
};

// What a filter on top of a node opened with `writable` uses and shares.
Permissions pass_through_permissions(bool writable);

}  // namespace ostler::block
