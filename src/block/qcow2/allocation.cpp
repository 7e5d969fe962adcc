// Writes that give guest clusters a place: new host clusters, or the unused rest of their own.
#include <algorithm>
#include <cstring>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

constexpr size_t kZeroBytes = 64 * 1024;
alignas(4096) const char kZeroes[kZeroBytes] = {};

void add_zeroes(std::vector<iovec>& pieces, uint64_t bytes) {
  while (bytes != 0) {
    const size_t piece = std::min<uint64_t>(bytes, kZeroBytes);
    pieces.push_back({const_cast<char*>(kZeroes), piece});  // only written from
    bytes -= piece;
  }
}

}  // namespace

// The L2 table of `l1_index` as this image's own: a new one, or a copy of one that snapshots share.
Task<int> Qcow2Node::make_own_l2(uint64_t l1_index) {
  const Mutex::Guard alone = co_await owning_.lock();
  uint64_t old;
  {
    const std::lock_guard lock(mutex_);
    if (l1_index >= l1_.words.size()) co_return -EFBIG;
    const uint64_t word = l1_.get(l1_index);
    old = word & kOffsetMask;
    if (old != 0 && (word & kCopied) != 0) co_return 0;
  }
  if ((old & cluster_mask()) != 0)
    co_return co_await report_corruption("an L2 table's offset breaks the format");
  uint64_t fresh;
  int error = co_await allocate_metadata(cluster_bytes_, fresh);
  if (error != 0) co_return error;
  const AlignedBuffer table(cluster_bytes_);
  if (!table) co_return -ENOMEM;
  if (old != 0)
    error = co_await read_bytes(*file_, old, table.data(), cluster_bytes_);
  else
    std::memset(table.data(), 0, cluster_bytes_);
  if (error == 0) error = co_await write_bytes(*file_, fresh, table.data(), cluster_bytes_);
  const std::lock_guard lock(mutex_);
  if (error != 0) {
    given_up_.push_back({fresh >> cluster_bits_, 1, false});
    co_return error;
  }
  pages_.drop_locked(fresh, cluster_bytes_);
  note_metadata_locked(fresh);
  l1_.set(l1_index, fresh | kCopied);
  if (old != 0) given_up_.push_back({old >> cluster_bits_, 1, false});
  co_return 0;
}

Task<int> Qcow2Node::load_own_l2(uint64_t offset, Pin& pin) {
  const uint64_t l1_index = offset >> (cluster_bits_ + l2_bits_);
  bool own;
  {
    const std::lock_guard lock(mutex_);
    if (l1_index >= l1_.words.size()) co_return -EFBIG;
    const uint64_t word = l1_.get(l1_index);
    own = (word & kOffsetMask) != 0 && (word & kCopied) != 0;
  }
  if (!own) {
    const int error = co_await make_own_l2(l1_index);
    if (error != 0) co_return error;
  }
  co_return co_await load_l2(offset, pin);
}

Qcow2Node::Allocation* Qcow2Node::find_allocation_locked(uint64_t first, uint64_t end) const {
  for (Allocation* each : allocating_)
    if (each->first < end && first < each->end) return each;
  return nullptr;
}

bool Qcow2Node::clusters_of(const Entry& entry, GivenUp& clusters) const {
  if (data_file_) return false;
  if (entry.compressed()) {
    const unsigned shift = 62 - (cluster_bits_ - 8);
    const uint64_t begin = entry.word & ((uint64_t{1} << shift) - 1);
    const uint64_t sectors = (entry.word >> shift & ((uint64_t{1} << (cluster_bits_ - 8)) - 1)) + 1;
    const uint64_t end = align_down(begin, 512) + sectors * 512;
    const uint64_t first = begin >> cluster_bits_;
    clusters = {first, ((end - 1) >> cluster_bits_) - first + 1, false};
    return true;
  }
  clusters = {entry.host() >> cluster_bits_, 1, true};
  return entry.host() != 0;
}

// The clusters of an entry lose the reference that it had. Guarded by mutex_.
void Qcow2Node::give_up_locked(const Entry& entry) {
  GivenUp clusters{};
  if (!clusters_of(entry, clusters)) return;
  if (!given_up_.empty()) {
    GivenUp& last = given_up_.back();
    if (last.discard && clusters.discard && last.first + last.count == clusters.first) {
      last.count += clusters.count;
      return;
    }
  }
  given_up_.push_back(clusters);
}

// What the write does not cover of the units that it touches is read first, and all of it is written at once.
Task<int> Qcow2Node::fill_and_write(const Allocation& allocation, uint64_t offset, Buffers from) {
  const uint64_t end = offset + total_bytes(from);
  const auto old_at = [&](uint64_t at) -> const Entry& {
    return allocation.old[(at - allocation.first) >> cluster_bits_];
  };
  // A new cluster in place of one with content takes all of that; else only touched units are given content.
  const auto unit_of = [&](uint64_t at) {
    const Entry& old = old_at(at);
    const bool whole = allocation.fresh && (old.compressed() || old.host() != 0);
    return whole ? cluster_bytes_ : unit_bytes_;
  };
  const uint64_t begin_fill = align_down(offset, unit_of(offset));
  const uint64_t end_fill = align_up(end, unit_of(end - 1));
  const auto is_zero = [&](uint64_t at, uint64_t unit) {
    if (unit != unit_bytes_) return false;
    const Content what = content(old_at(at), at);
    return what == Content::kZero || (what == Content::kNone && !backing_);
  };
  AlignedBuffer head, tail;
  std::vector<iovec> pieces;
  uint64_t write_from = offset;
  if (begin_fill < offset) {
    bool zero = is_zero(offset, unit_of(offset));
    if (!zero) {
      head = AlignedBuffer(offset - begin_fill);
      if (!head) co_return -ENOMEM;
      const int error = co_await read_bytes(*this, begin_fill, head.data(), head.size());
      if (error != 0) co_return error;
      zero = allocation.virgin && all_zeroes(head.data(), head.size());
    }
    if (!zero)
      pieces.push_back(head.as_iovec());
    else if (!allocation.virgin)
      add_zeroes(pieces, offset - begin_fill);
    if (!pieces.empty()) write_from = begin_fill;
  }
  pieces.insert(pieces.end(), from.begin(), from.end());
  if (end < end_fill) {
    bool zero = is_zero(end - 1, unit_of(end - 1));
    if (!zero) {
      tail = AlignedBuffer(end_fill - end);
      if (!tail) co_return -ENOMEM;
      const int error = co_await read_bytes(*this, end, tail.data(), tail.size());
      if (error != 0) co_return error;
      zero = allocation.virgin && all_zeroes(tail.data(), tail.size());
    }
    if (!zero)
      pieces.push_back(tail.as_iovec());
    else if (!allocation.virgin)
      add_zeroes(pieces, end_fill - end);
  }
  co_return co_await write_data(allocation.host + (write_from - allocation.first), pieces);
}

Task<int> Qcow2Node::write_allocating(uint64_t offset, Buffers from, uint64_t& done) {
  int error = co_await commit_if_much();
  if (error != 0) co_return error;
  Allocation allocation;
  allocation.first = align_down(offset, cluster_bytes_);
  uint64_t bytes = 0, epoch = 0;
  Pin page;
  for (;;) {
    error = co_await load_own_l2(offset, page);
    if (error != 0) co_return error;
    std::unique_lock lock(mutex_);
    bool no_table = false;
    page = find_l2_locked(offset, no_table);
    if (!page || (l1_.get(offset >> (cluster_bits_ + l2_bits_)) & kCopied) == 0) continue;
    bytes = std::min(total_bytes(from), page_span(offset));

    // Clusters in a row that are treated alike: all get new places, or all keep theirs, one after the other.
    const auto keeps_place = [&](const Entry& entry) {
      if (entry.compressed() || !entry.copied()) return false;
      return entry.host() != 0 || data_file_;
    };
    allocation.old.clear();
    uint64_t at = allocation.first;
    for (; at < offset + bytes; at += cluster_bytes_) {
      const Entry entry = entry_locked(page, at);
      const bool keeps = keeps_place(entry);
      if (!entry.compressed() && (entry.host() & cluster_mask()) != 0) {
        lock.unlock();
        co_return co_await report_corruption("a data cluster's offset breaks the format");
      }
      if (at == allocation.first) {
        allocation.fresh = !keeps;
        allocation.host = keeps ? entry.host() : 0;
      } else if (keeps == allocation.fresh ||
                 (keeps && entry.host() != allocation.host + (at - allocation.first))) {
        break;
      }
      allocation.old.push_back(entry);
    }
    allocation.end = at;
    // A write in place need not wait for another's allocation; this one must, and looks again then.
    Allocation* before = nullptr;
    for (Allocation* other : allocating_) {
      if (other->end <= allocation.first || allocation.end <= other->first) continue;
      if (other->first <= allocation.first)
        before = other;
      else
        allocation.end = std::min(allocation.end, other->first);
    }
    if (before != nullptr) {
      page = Pin();
      co_await before->done.wait(lock);
      // What was to be allocated may have been meanwhile.
      lock.unlock();
      done = 0;
      co_return 0;
    }
    const Run now = find_run_locked(page, offset, bytes);
    if (now.content == Content::kData && now.own) co_return 0;  // it has been meanwhile
    allocating_.push_front(&allocation);
    allocation.place = allocating_.begin();
    epoch = epochs_.enter();
    break;
  }

  if (allocation.fresh) {
    if (data_file_) {
      allocation.host = allocation.first;
    } else {
      uint64_t got = 0;
      const uint64_t clusters = (allocation.end - allocation.first) >> cluster_bits_;
      error = co_await allocate_clusters(clusters, false, allocation.host, got);
      const std::lock_guard lock(mutex_);
      if (error == 0) {
        allocation.end = allocation.first + (got << cluster_bits_);
        allocation.virgin = allocation.host >= virgin_from_;
        if (virgin_from_ != ~uint64_t{0})
          virgin_from_ = std::max(virgin_from_, allocation.host + (got << cluster_bits_));
      }
    }
  }
  bytes = std::min(bytes, allocation.end - offset);
  if (error == 0) {
    const Slice part(from, 0, bytes);
    error = co_await fill_and_write(allocation, offset, part);
  }

  const std::lock_guard lock(mutex_);
  allocating_.erase(allocation.place);
  allocation.done.wake_all();
  epochs_.leave(epoch);
  if (error != 0) {
    if (allocation.fresh && !data_file_ && allocation.host != 0)
      given_up_.push_back(
          {allocation.host >> cluster_bits_, (allocation.end - allocation.first) >> cluster_bits_, false});
    co_return error;
  }
  const uint64_t end = offset + bytes;
  for (uint64_t at = allocation.first; at < allocation.end; at += cluster_bytes_) {
    const Entry& old = allocation.old[(at - allocation.first) >> cluster_bits_];
    Entry entry;
    entry.word = (allocation.host + (at - allocation.first)) | kCopied;
    if (header_.has(kExtendedL2)) {
      const bool replaced = allocation.fresh && (old.compressed() || old.host() != 0);
      if (replaced) {
        entry.bitmap = (uint64_t{1} << kSubclusters) - 1;
      } else {
        entry.bitmap = old.bitmap;
        const uint64_t first = std::max(at, offset), last = std::min(at + cluster_bytes_, end) - 1;
        for (uint64_t sub = (first - at) / unit_bytes_; sub <= (last - at) / unit_bytes_; ++sub) {
          entry.bitmap |= uint64_t{1} << sub;
          entry.bitmap &= ~(uint64_t{1} << (kSubclusters + sub));
        }
      }
    }
    set_entry_locked(page, at, entry);
    if (allocation.fresh) give_up_locked(old);
  }
  done = bytes;
  co_return 0;
}

}  // namespace ostler::block::qcow2
