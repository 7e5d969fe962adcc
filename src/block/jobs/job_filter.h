// What a job puts between a node and its users: a filter that sees their writes.
#pragma once

#include "block/filters/filter.h"
#include "block/range_locks.h"

namespace ostler::block {

class JobFilter : public FilterNode {
 public:
  explicit JobFilter(std::string driver) : FilterNode(std::move(driver), "file") {}

  int try_read(uint64_t offset, Buffers to) override { return child_->try_read(offset, to); }
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;
  int64_t allocated_bytes() const override { return child_->allocated_bytes(); }
  std::string filename() const override { return child_->filename(); }

 protected:
  RangeLocks ranges_;
};

// Of a stream: copies what lies below into the image, between the users' writes.
class StreamFilter final : public JobFilter {
 public:
  StreamFilter() : JobFilter("copy-on-read") {}
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  // While it lives nobody writes there.
  Task<RangeLocks::Guard> hold(uint64_t offset, uint64_t bytes) {
    return ranges_.lock(offset, bytes, RangeLocks::Mode::kExclusive);
  }
};

}  // namespace ostler::block
