// Growing, shrinking, preallocating.
#include <fmt/format.h>

#include <algorithm>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Task<Result<void>> Qcow2Node::grow_l1(uint64_t entries) {
  if (entries <= header_.l1_entries) co_return Result<void>();
  if (entries > kMostL1Bytes / 8)
    co_return Error(
        ErrorKind::kInvalidArgument,
        fmt::format(
            "{}: this size needs an L1 table of {} entries, above {}; larger clusters make it smaller",
            filename(), entries, kMostL1Bytes / 8));
  // Nobody changes the L1 table meanwhile.
  const Mutex::Guard alone = co_await owning_.lock();
  int error = co_await commit();
  if (error != 0) co_return failed("its metadata cannot be written", error);
  uint64_t offset;
  error = co_await allocate_metadata(entries * 8, offset);
  if (error != 0) co_return failed("there is no room for a larger L1 table", error);
  std::vector<uint64_t> words;
  uint64_t old_offset;
  {
    const std::lock_guard lock(mutex_);
    words = l1_.words;
    old_offset = l1_.offset;
  }
  const uint64_t old_entries = header_.l1_entries;
  words.resize(entries);
  // The rest of its last cluster too: a larger file must not show old content there.
  words.resize(align_up(entries * 8, cluster_bytes_) / 8);
  error = co_await write_bytes(*file_, offset, words.data(), words.size() * 8);
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("a larger L1 table cannot be written", error);
  words.resize(entries);
  {
    const std::lock_guard lock(mutex_);
    l1_.assign(offset, std::move(words));
    header_.l1_offset = offset;
    header_.l1_entries = static_cast<uint32_t>(entries);
  }
  CO_TRY(co_await write_header());
  error = co_await file_->flush();
  if (error != 0) co_return failed("its header cannot be written", error);
  const std::lock_guard lock(mutex_);
  if (old_entries != 0)
    given_up_.push_back(
        {old_offset >> cluster_bits_, (old_entries * 8 + cluster_mask()) >> cluster_bits_, false});
  co_return Result<void>();
}

// Gives clusters in [from, to) a place that reads as zeros.
Task<Result<void>> Qcow2Node::preallocate(uint64_t from, uint64_t to, Preallocation mode) {
  uint64_t at = align_down(from, cluster_bytes_);
  const uint64_t end = align_up(to, cluster_bytes_);
  while (at < end) {
    int error = co_await commit_if_much();
    Pin page;
    if (error == 0) error = co_await load_own_l2(at, page);
    if (error != 0) co_return failed("preallocation failed", error);
    uint64_t clusters = 0;
    {
      const std::lock_guard lock(mutex_);
      const uint64_t limit = std::min(end, at + page_span(at));
      for (uint64_t next = at; next < limit; next += cluster_bytes_, ++clusters) {
        const Entry entry = entry_locked(page, next);
        if (entry.word != 0 || entry.bitmap != 0) break;
      }
    }
    if (clusters == 0) {  // has a place already
      at += cluster_bytes_;
      continue;
    }
    uint64_t host = at, got = clusters;
    bool virgin = false;
    if (!data_file_) {
      error = co_await allocate_clusters(clusters, false, host, got);
      if (error != 0) co_return failed("there is no room for preallocation", error);
      const std::lock_guard lock(mutex_);
      virgin = host >= virgin_from_;
      if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, host + (got << cluster_bits_));
    }
    const uint64_t bytes = got << cluster_bits_;
    // Space of an encrypted image does not read as zeros; a flag says so instead, where there is one.
    const bool flag = encryption_ != nullptr && header_.version >= 3;
    if (mode == Preallocation::kFull || (encryption_ && !flag)) {
      const AlignedBuffer zeroes(std::min<uint64_t>(bytes, 1 << 20));
      if (!zeroes) co_return failed("preallocation failed", -ENOMEM);
      std::fill_n(zeroes.data(), zeroes.size(), std::byte{0});
      for (uint64_t done = 0; done < bytes && error == 0; done += zeroes.size()) {
        const iovec piece = {zeroes.data(), std::min<uint64_t>(zeroes.size(), bytes - done)};
        error = co_await write_data(host + done, Buffers(&piece, 1));
      }
    } else if (mode == Preallocation::kFalloc || (!virgin && !data_file_ && !flag)) {
      error = co_await write_zeroes_anyhow(data_node(), host, bytes, {});
    }
    if (error != 0) co_return failed("preallocation failed", error);
    // No entry may refer beyond the end of the file, whenever the power fails.
    if (!data_file_ && file_->size() < host + bytes)
      CO_TRY(co_await file_->truncate(host + bytes, Preallocation::kOff));
    const std::lock_guard lock(mutex_);
    for (uint64_t i = 0; i < got; ++i) {
      Entry entry;
      entry.word = (host + (i << cluster_bits_)) | kCopied;
      if (header_.has(kExtendedL2))
        entry.bitmap = ((uint64_t{1} << kSubclusters) - 1) << (flag ? kSubclusters : 0);
      else if (flag)
        entry.word |= kZeroFlag;
      set_entry_locked(page, at + (i << cluster_bits_), entry);
    }
    at += bytes;
  }
  co_return Result<void>();
}

// Takes the places of clusters from `size` to the disk's present end away.
Task<Result<void>> Qcow2Node::drop_above(uint64_t size) {
  const uint64_t end = align_up(this->size(), cluster_bytes_);
  const uint64_t coverage = header_.l2_coverage();
  for (uint64_t at = align_up(size, cluster_bytes_); at < end;) {
    int error = co_await commit_if_much();
    if (error != 0) co_return failed("clusters cannot be freed", error);
    bool no_table = false;
    const uint64_t limit = std::min(end, at + page_span(at));
    {
      const std::lock_guard lock(mutex_);
      const Pin none = find_l2_locked(at, no_table);
    }
    if (no_table) {
      at = std::min(end, align_down(at, coverage) + coverage);
      continue;
    }
    Pin page;
    error = co_await load_own_l2(at, page);
    if (error != 0) co_return failed("clusters cannot be freed", error);
    const std::lock_guard lock(mutex_);
    for (; at < limit; at += cluster_bytes_) {
      const Entry old = entry_locked(page, at);
      if (old.word == 0 && old.bitmap == 0) continue;
      set_entry_locked(page, at, Entry{});
      give_up_locked(old);
    }
  }
  const std::lock_guard lock(mutex_);
  for (uint64_t index = header_.l1_entries_for(size); index < l1_.words.size(); ++index) {
    const uint64_t table = l1_.get(index) & kOffsetMask;
    if (table == 0) continue;
    pages_.drop_locked(table, cluster_bytes_);
    l1_.set(index, 0);
    given_up_.push_back({table >> cluster_bits_, 1, true});
  }
  co_return Result<void>();
}

// The highest cluster of a refcount block that is in use, and whether it is the only one; false: none is.
Task<int> Qcow2Node::last_in_block(uint64_t table_index, uint64_t& last, bool& only, bool& found) {
  const uint64_t begin = table_index << refcount_block_bits_;
  found = only = false;
  for (uint64_t cluster = begin + refcounts_per_block(); cluster-- != begin;) {
    uint64_t count = 0;
    const int error = co_await refcount(cluster, count);
    if (error != 0) co_return error;
    if (count == 0) continue;
    only = !found;
    if (found) break;
    found = true;
    last = cluster;
  }
  co_return 0;
}

// Cuts what is not in use off the end of the file, when nothing else runs any more.
Task<int> Qcow2Node::shorten_file() {
  uint64_t end = 0;
  bool dropped = false;
  for (uint64_t i = refcount_table_.words.size(); i-- != 0 && end == 0;) {
    const uint64_t block = refcount_table_.get(i) & kRefcountOffsetMask;
    if (block == 0) continue;
    if ((i << refcount_block_bits_) << cluster_bits_ >= file_->size()) co_return 0;  // refcounts lie
    uint64_t last = 0;
    bool only = false, found = false;
    const int error = co_await last_in_block(i, last, only, found);
    if (error != 0) co_return error;
    if (found && !(only && i != 0 && last == block >> cluster_bits_)) {
      end = (last + 1) << cluster_bits_;
    } else if (found) {
      // A block that counts nothing but itself.
      const std::lock_guard lock(mutex_);
      refcount_table_.set(i, 0);
      pages_.drop_locked(block, cluster_bytes_);
      metadata_.erase(last);
      dropped = true;
    }
  }
  if (dropped) {
    const int error = co_await commit();
    if (error != 0) co_return error;
  }
  // Tables behind the end: then refcounts lie, and nothing is cut.
  uint64_t needed =
      std::max(l1_.offset + l1_.words.size() * 8, refcount_table_.offset + refcount_table_.words.size() * 8);
  needed = std::max(needed, header_.encryption_header.offset + header_.encryption_header.bytes);
  needed = std::max(needed, header_.snapshots_offset);
  for (uint64_t i = 0; i < l1_.words.size(); ++i) needed = std::max(needed, l1_.get(i) & kOffsetMask);
  for (uint64_t i = 0; i < refcount_table_.words.size(); ++i)
    needed = std::max(needed, refcount_table_.get(i) & kRefcountOffsetMask);
  if (end == 0 || needed > end || end >= file_->size()) co_return 0;
  auto cut = co_await file_->truncate(end, Preallocation::kOff);
  static_cast<void>(cut);  // a device cannot be cut: it has its size
  co_return 0;
}

Task<Result<void>> Qcow2Node::make_empty() {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  if (const int error = co_await prepare_first_write(); error != 0)
    co_return failed("it cannot be written", error);
  CO_TRY(co_await drop_above(0));
  shorten_ = true;
  if (const int error = co_await commit(); error != 0)
    co_return failed("its metadata cannot be written", error);
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::truncate(uint64_t size, Preallocation preallocation) {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  if (size % 512 != 0)
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{}: the size {} is not a multiple of 512", filename(), size));
  if (header_.version < 3 && !snapshots_.empty())
    co_return Error(
        ErrorKind::kUnsupported,
        filename() + ": an image of version 2 with snapshots cannot be resized; amend it to compat=1.1",
        ENOTSUP);
  if (const int error = co_await prepare_first_write(); error != 0)
    co_return failed("it cannot be written", error);
  const uint64_t before = this->size();
  if (size <= before) shorten_ = true;
  if (size < before) {
    CO_TRY(co_await drop_above(size));
  } else {
    CO_TRY(co_await grow_l1(header_.l1_entries_for(size)));
  }
  if (data_file_ && (size > before || (header_.autoclear & kRawDataFile) != 0)) {
    if (size < data_file_->size() || data_file_->size() < size)
      CO_TRY(co_await data_file_->truncate(size, Preallocation::kOff));
  }
  if (size > before) {
    // What a shrunk disk left in its last cluster, and what a backing file has there, was not part of this
    // disk.
    const uint64_t in_cluster = std::min(size, align_up(before, cluster_bytes_));
    const uint64_t to = backing_ ? std::max(in_cluster, std::min(size, backing_->size())) : in_cluster;
    virtual_size_ = size;
    int error = 0;
    if (to > before) error = co_await write_zeroes_anyhow(*this, before, to - before, {.may_unmap = true});
    virtual_size_ = before;
    if (error != 0) co_return failed("its new part cannot be zeroed", error);
  }
  if (size > before && preallocation != Preallocation::kOff)
    CO_TRY(co_await preallocate(before, size, preallocation));
  int error = co_await commit();
  if (error != 0) co_return failed("its metadata cannot be written", error);
  header_.size = size;
  CO_TRY(co_await write_header());
  error = co_await file_->flush();
  if (error != 0) co_return failed("its header cannot be written", error);
  virtual_size_ = size;
  bitmaps_->resize(size);
  resized();
  co_return Result<void>();
}

}  // namespace ostler::block::qcow2
