// What a place holds (block_status): by the L2 tables, and by the holes of the file below.
#include <algorithm>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

// Whether looking for holes below this image's clusters pays: in one with preallocated metadata, or written
// by copying. Asked once; each look costs system calls.
bool Qcow2Node::may_have_holes() {
  int known = holes_.load(std::memory_order_relaxed);
  if (known < 0) {
    const int64_t allocated = data_node().allocated_bytes();
    known = allocated >= 0 && static_cast<uint64_t>(allocated) < data_node().size() / 10 * 9 ? 1 : 0;
    holes_.store(known, std::memory_order_relaxed);
  }
  return known != 0;
}

// Whether clusters have places that were never written, as after preallocation=metadata: one of ten that are
// counted, and two at least, take no space. Asked once, as it reads all refcounts.
Task<bool> Qcow2Node::has_unwritten_places() {
  int known = unwritten_.load(std::memory_order_relaxed);
  if (known < 0) {
    bool found = false;
    const int error = co_await compare_space_with_refcounts(found);
    known = error == 0 && found ? 1 : 0;
    unwritten_.store(known, std::memory_order_relaxed);
  }
  co_return known != 0;
}

Task<int> Qcow2Node::compare_space_with_refcounts(bool& less) {
  less = false;
  const int64_t allocated = file_->allocated_bytes();
  if (allocated < 0) co_return static_cast<int>(allocated);
  const uint64_t real = static_cast<uint64_t>(allocated) >> cluster_bits_;
  const uint64_t enough = std::max(real * 10 / 9, real + 2);
  const uint64_t end = (file_->size() + cluster_bytes_ - 1) >> cluster_bits_;
  if (enough > end) co_return 0;
  bool missing;
  {
    const std::lock_guard lock(mutex_);
    missing = refcount_table_.words.empty();
  }
  if (missing) {  // an image that is only read
    TopTable table;
    const auto loaded =
        co_await read_table(table, header_.refcount_table_offset,
                            header_.refcount_table_clusters * cluster_bytes_ / 8, "refcount table");
    if (!loaded) co_return -EIO;
    const std::lock_guard lock(mutex_);
    if (refcount_table_.words.empty()) refcount_table_ = std::move(table);
  }
  const uint64_t per_page = pages_.page_bytes() * 8 >> header_.refcount_order;
  uint64_t counted = 0;
  for (uint64_t cluster = 0; cluster < end && counted < enough;) {
    Pin page;
    const int error = co_await load_refcount_page(cluster, page);
    if (error != 0) co_return error;
    if (!page) {  // no block
      cluster = (cluster | (refcounts_per_block() - 1)) + 1;
      if (cluster >> refcount_block_bits_ >= header_.refcount_table_clusters * cluster_bytes_ / 8) break;
      continue;
    }
    const uint64_t last = std::min((cluster | (per_page - 1)) + 1, end);
    const std::lock_guard lock(mutex_);
    for (; cluster < last; ++cluster) counted += refcount_locked(page, cluster) != 0 ? 1 : 0;
  }
  less = counted >= enough;
  co_return 0;
}

Task<int> Qcow2Node::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) {
  status = {};
  const uint64_t end = size();
  if (offset >= end) {
    status.bytes = bytes;
    status.zero = status.allocated = true;
    co_return 0;
  }
  bytes = std::min(bytes, end - offset);
  Run whole;
  bool first = true;
  while (whole.bytes < bytes) {
    const uint64_t at = offset + whole.bytes;
    Pin page;
    const int error = co_await load_l2(at, page);
    if (error != 0) co_return error;
    Run run;
    if (page) {
      const std::lock_guard lock(mutex_);
      run = find_run_locked(page, at, bytes - whole.bytes, Runs::kInOnePlace);
    } else {
      run.bytes = std::min(bytes - whole.bytes, page_span(at));
    }
    if (run.bad && !first) break;  // told when it is asked for
    if (run.bad) co_return damaged("the data", at, run.host - (at & cluster_mask()));
    if (first)
      whole = run;
    else if (run.content != whole.content || run.content == Content::kCompressedData ||
             run.placed != whole.placed || (run.placed && run.host != whole.host + whole.bytes))
      break;
    else
      whole.bytes += run.bytes;
    first = false;
    if (whole.content == Content::kCompressedData) break;
  }
  status.bytes = whole.bytes;
  status.allocated = whole.content != Content::kNone;
  status.zero = whole.content == Content::kZero || (whole.content == Content::kNone && !backing_);
  status.data = whole.content == Content::kData || whole.content == Content::kCompressedData;
  status.compressed = whole.content == Content::kCompressedData;
  // What lies there is not what is read, in an encrypted image.
  if (!whole.placed || encryption_) co_return 0;
  status.offset_valid = true;
  status.offset = whole.host;
  status.file = &data_node();
  if (!status.data || detail == StatusDetail::kQuick) co_return 0;
  bool look = false;
  if (detail == StatusDetail::kLayout)
    look = co_await has_unwritten_places();
  else
    look = may_have_holes();
  if (!look) co_return 0;
  BlockStatus below;
  const int error = co_await data_node().block_status(whole.host, whole.bytes, detail, below);
  if (error == 0 && below.bytes != 0) {
    status.bytes = std::min(status.bytes, below.bytes);
    status.zero = below.zero;
  }
  co_return 0;
}

}  // namespace ostler::block::qcow2
