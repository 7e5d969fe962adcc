// The filter "compress": what users write is stored in the image below as compressed clusters.
//
// A write of part of a cluster reads the cluster and writes it as a whole, so that writes which share a
// cluster wait for each other. Content that does not become smaller is stored as it is.
#pragma once

#include <atomic>

#include "block/filters/filter.h"
#include "block/range_locks.h"

namespace ostler::block {

class CompressNode final : public FilterNode {
 public:
  CompressNode() : FilterNode("compress", "file") {}
  // What it asks of the image below: nobody may write there between a cluster's reading and its writing.
  static Permissions permissions(bool writable);

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;
  Task<Result<void>> reopen(bool writable) override;
  void cancel() override;
  int try_read(uint64_t offset, Buffers to) override { return child_->try_read(offset, to); }
  Limits limits() const override;

 private:
  // -ECANCELED when cancel() came while it waited, -EINVAL beyond the disk's end: it may have moved
  // meanwhile.
  Task<int> hold(uint64_t offset, uint64_t bytes, RangeLocks::Guard& range);
  // `unit`: cluster(), which is not 0 here.
  Task<int> write_part(uint64_t unit, uint64_t offset, Buffers whole, uint64_t from, uint64_t bytes);
  Task<int> write_cluster(uint64_t begin, uint64_t length, uint64_t offset, Buffers from);
  Task<int> zero_part(uint64_t unit, uint64_t offset, uint64_t bytes);
  uint64_t cluster() const { return child_->limits().cluster_bytes; }  // 0: the image has none
  uint64_t end() const;                                                // of the disk, whole sectors

  RangeLocks writing_;  // each to the end of a cluster
  std::atomic<unsigned> cancels_{0};
};

}  // namespace ostler::block
