// Clusters in a row that are more than a refcount block counts: each new block lies at the begin of what it
// counts, so that there is never such a run between blocks. Large tables of images with tiny clusters need
// it.
#include <algorithm>
#include <cstring>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

// Exactly `want` clusters behind all that have refcounts, and behind them the blocks that count both. What a
// power cut leaves of it is a leak.
Task<int> Qcow2Node::allocate_behind(uint64_t want, uint64_t& offset) {
  const Mutex::Guard alone = co_await growing_.lock();
  uint64_t blocks = 1;
  while (blocks << refcount_block_bits_ < want + blocks) ++blocks;
  uint64_t table_index = 0;
  for (int tries = 0;; ++tries) {
    bool fits;
    {
      const std::lock_guard lock(mutex_);
      table_index = refcount_table_.words.size();
      while (table_index != 0 && (refcount_table_.get(table_index - 1) & kRefcountOffsetMask) == 0)
        --table_index;
      fits = table_index + blocks <= refcount_table_.words.size();
    }
    if (fits) break;
    if (tries == 2) co_return -EFBIG;
    const int error = co_await grow_refcount_table(table_index + 2 * blocks);
    if (error != 0) co_return error;
  }
  const uint64_t first = table_index << refcount_block_bits_, end = first + want + blocks;
  if (end > uint64_t{1} << (56 - cluster_bits_)) co_return -EFBIG;
  {
    std::unique_lock lock(mutex_);
    if (overlaps_metadata_locked(first << cluster_bits_, (end - first) << cluster_bits_)) {
      lock.unlock();
      co_return co_await report_corruption("a cluster with metadata has no refcount");
    }
  }
  const AlignedBuffer block(cluster_bytes_);
  if (!block) co_return -ENOMEM;
  for (uint64_t b = 0; b < blocks; ++b) {
    std::memset(block.data(), 0, cluster_bytes_);
    const uint64_t begin = first + (b << refcount_block_bits_);
    for (uint64_t i = 0; i < refcounts_per_block() && begin + i < end; ++i)
      store_refcount(block.data(), i, header_.refcount_order, 1);
    const int error =
        co_await write_bytes(*file_, (first + want + b) << cluster_bits_, block.data(), cluster_bytes_);
    if (error != 0) co_return error;
  }
  const std::lock_guard lock(mutex_);
  pages_.drop_locked((first + want) << cluster_bits_, blocks << cluster_bits_);
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t at = (first + want + b) << cluster_bits_;
    refcount_table_.set(table_index + b, at);
    note_metadata_locked(at);
  }
  if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, end << cluster_bits_);
  offset = first << cluster_bits_;
  co_return 0;
}

}  // namespace ostler::block::qcow2
