// write_zeroes and discard: flags in L2 tables instead of zeros in clusters.
#include <algorithm>

#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Task<int> Qcow2Node::reads_as_zero(uint64_t offset, uint64_t bytes, bool& zero) {
  zero = true;
  for (uint64_t done = 0; done < bytes && zero;) {
    BlockStatus status;
    const int error = co_await block_status(offset + done, bytes - done, StatusDetail::kQuick, status);
    if (error != 0) co_return error;
    zero = status.zero;
    done += std::max<uint64_t>(status.bytes, 1);
  }
  co_return 0;
}

// Zeros in part of a unit.
Task<int> Qcow2Node::zero_part(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  bool zero = false;
  const int error = co_await reads_as_zero(offset, bytes, zero);
  if (error != 0 || zero) co_return error;
  if (flags.no_fallback) co_return -ENOTSUP;
  const AlignedBuffer zeroes(bytes);
  if (!zeroes) co_return -ENOMEM;
  std::fill_n(zeroes.data(), bytes, std::byte{0});
  const iovec whole = zeroes.as_iovec();
  co_return co_await write_here(offset, Buffers(&whole, 1));
}

Task<int> Qcow2Node::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (bytes == 0) co_return 0;
  if (offset + bytes > align_up(size(), 512)) co_return -EINVAL;
  if (header_.version < 3 && backing_) co_return -ENOTSUP;
  if (!prepared_) {
    const int error = co_await prepare_first_write();
    if (error != 0) co_return error;
  }
  if (corrupt_) co_return -EIO;
  bitmaps_->written(offset, bytes);
  if (data_file_ && (header_.autoclear & kRawDataFile) != 0) {
    const int error = co_await write_zeroes_anyhow(*data_file_, offset, bytes, flags);
    if (error != 0) co_return error;
  }
  uint64_t end = offset + bytes;
  // The disk's last unit may be short.
  if (end >= size()) end = align_up(end, unit_bytes_);
  const uint64_t first = align_up(offset, unit_bytes_), last = align_down(end, unit_bytes_);
  if (first > last) co_return co_await zero_part(offset, bytes, flags);
  int error = 0;
  if (offset < first) error = co_await zero_part(offset, std::min(first, offset + bytes) - offset, flags);
  if (error == 0 && last < end) error = co_await zero_part(last, end - last, flags);
  if (error == 0 && first < last) error = co_await zero_clusters(first, last - first, flags.may_unmap, false);
  co_return error;
}

Task<int> Qcow2Node::discard(uint64_t offset, uint64_t bytes) {
  if (!discards_ || read_only_ || bytes == 0) co_return 0;
  if (corrupt_) co_return -EIO;
  if (data_file_ && (header_.autoclear & kRawDataFile) != 0)
    co_return co_await write_zeroes(offset, bytes, {.may_unmap = true});
  uint64_t end = offset + bytes;
  if (end >= size()) end = align_up(end, cluster_bytes_);
  const uint64_t first = align_up(offset, cluster_bytes_), last = align_down(end, cluster_bytes_);
  if (first >= last) co_return 0;
  if (!prepared_) {
    const int error = co_await prepare_first_write();
    if (error != 0) co_return error;
  }
  bitmaps_->written(offset, bytes);
  int error = co_await zero_clusters(first, last - first, true, true);
  if (error == 0 && data_file_) error = co_await data_file_->discard(first, last - first);
  co_return error;
}

Task<int> Qcow2Node::zero_clusters(uint64_t offset, uint64_t bytes, bool may_unmap, bool is_discard) {
  const uint64_t end = offset + bytes;
  while (offset < end) {
    uint64_t done = 0;
    const int error = co_await zero_in_page(offset, end, may_unmap, is_discard, done);
    if (error != 0) co_return error;
    offset += done;
  }
  co_return 0;
}

// As far as one page of an L2 table reaches. Nothing done: look again.
Task<int> Qcow2Node::zero_in_page(uint64_t offset, uint64_t end, bool may_unmap, bool is_discard,
                                  uint64_t& done) {
  int error = co_await commit_if_much();
  if (error != 0) co_return error;
  end = std::min(end, offset + page_span(offset));
  {
    const std::lock_guard lock(mutex_);
    bool no_table = false;
    const Pin none = find_l2_locked(offset, no_table);
    if (no_table && (is_discard || !backing_)) {
      done = end - offset;
      co_return 0;
    }
  }
  Pin page;
  error = co_await load_own_l2(offset, page);
  if (error != 0) co_return error;
  std::unique_lock lock(mutex_);
  bool no_table = false;
  page = find_l2_locked(offset, no_table);
  if (!page || (l1_.get(offset >> (cluster_bits_ + l2_bits_)) & kCopied) == 0) co_return 0;
  const uint64_t begin_cluster = align_down(offset, cluster_bytes_),
                 end_cluster = align_up(end, cluster_bytes_);
  if (Allocation* const before = find_allocation_locked(begin_cluster, end_cluster); before != nullptr) {
    page = Pin();
    co_await before->done.wait(lock);
    co_return 0;
  }
  const bool extended = header_.has(kExtendedL2);
  for (uint64_t at = begin_cluster; at < end; at += cluster_bytes_) {
    const Entry old = entry_locked(page, at);
    Entry fresh;
    if (at >= offset && at + cluster_bytes_ <= end) {
      const bool empty = !old.compressed() && old.host() == 0;
      const Content what = content(old, at);
      if (!extended && (what == Content::kNone || what == Content::kZero) && empty &&
          (what == Content::kZero || is_discard || !backing_))
        continue;
      if (extended && empty && old.bitmap == 0 && (is_discard || !backing_)) continue;
      const bool drop = may_unmap || old.compressed() || !old.copied() || header_.version < 3;
      fresh.word = drop ? 0 : old.host() | kCopied;
      if (extended)
        fresh.bitmap = ((uint64_t{1} << kSubclusters) - 1) << kSubclusters;
      else if (header_.version >= 3)
        fresh.word |= kZeroFlag;
      else if (backing_)
        continue;  // of a discard: version 2 cannot hide the backing file
      set_entry_locked(page, at, fresh);
      if (drop) give_up_locked(old);
    } else {
      // Subclusters.
      if (old.compressed()) {
        if (at < offset) {
          lock.unlock();
          const uint64_t part = std::min(end, at + cluster_bytes_) - offset;
          error = co_await zero_part(offset, part, {});
          done = part;
          co_return error;
        }
        end = at;  // the next turn does it
        break;
      }
      fresh = old;
      const uint64_t first = std::max(at, offset), last = std::min(at + cluster_bytes_, end);
      for (uint64_t sub = (first - at) / unit_bytes_; sub < (last - at + unit_bytes_ - 1) / unit_bytes_;
           ++sub) {
        fresh.bitmap |= uint64_t{1} << (kSubclusters + sub);
        fresh.bitmap &= ~(uint64_t{1} << sub);
      }
      set_entry_locked(page, at, fresh);
    }
  }
  done = end - offset;
  co_return 0;
}

}  // namespace ostler::block::qcow2
