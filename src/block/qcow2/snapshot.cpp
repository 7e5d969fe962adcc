// Snapshots inside the image: L1 tables that share L2 tables and clusters, which refcounts count.
//
// Each step is stable before the next: references are counted before somebody refers, and uncounted after
// nobody does.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Task<Result<void>> Qcow2Node::read_snapshots() {
  snapshots_.clear();
  if (header_.snapshot_count == 0) co_return Result<void>();
  const uint64_t offset = header_.snapshots_offset, end = file_->size();
  if (offset >= end)
    co_return Error(
        ErrorKind::kCorrupt,
        fmt::format("{}: the snapshot table at {:#x} is beyond the end of the file", filename(), offset),
        EINVAL);
  // Entries have no common length: read what may be all of them, at most.
  const uint64_t most = std::min(kMostSnapshotTableBytes, end - offset);
  std::vector<std::byte> bytes;
  for (uint64_t take = std::min<uint64_t>(most, 65536);; take = std::min(most, take * 8)) {
    bytes.resize(take);
    const int error = co_await read_bytes(*file_, offset, bytes.data(), take);
    if (error != 0) co_return failed("the snapshot table cannot be read", error);
    auto parsed = parse_snapshots(bytes, header_.snapshot_count, size(), filename());
    if (!parsed) {
      if (take < most) continue;
      co_return std::move(parsed).error();
    }
    snapshots_ = *std::move(parsed);
    break;
  }
  for (const Stored& each : snapshots_)
    if ((each.l1_offset & cluster_mask()) != 0 || each.l1_entries > kMostL1Bytes / 8 ||
        each.l1_offset >= uint64_t{1} << 56)
      co_return Error(ErrorKind::kCorrupt,
                      fmt::format("{}: the L1 table of snapshot '{}' is at {:#x} with {} entries", filename(),
                                  each.info.name, each.l1_offset, each.l1_entries),
                      EINVAL);
  co_return Result<void>();
}

std::vector<SnapshotInfo> Qcow2Node::list() const {
  std::vector<SnapshotInfo> result;
  for (const Stored& each : snapshots_) result.push_back(each.info);
  return result;
}

Result<size_t> Qcow2Node::find_snapshot(const std::string& which) const {
  for (size_t i = 0; i < snapshots_.size(); ++i)
    if (snapshots_[i].info.id == which) return i;
  for (size_t i = 0; i < snapshots_.size(); ++i)
    if (snapshots_[i].info.name == which) return i;
  return Error(ErrorKind::kNotFound, fmt::format("{}: there is no snapshot '{}'", filename(), which), ENOENT);
}

Task<Result<void>> Qcow2Node::write_snapshots(std::vector<Stored> snapshots) {
  const std::vector<std::byte> bytes = serialize_snapshots(snapshots);
  if (snapshots.size() > kMostSnapshots || bytes.size() > kMostSnapshotTableBytes)
    co_return Error(ErrorKind::kNoResource, filename() + ": it has no room for more snapshots", ENOSPC);
  uint64_t old_bytes = serialize_snapshots(snapshots_).size();
  const uint64_t old_offset = header_.snapshots_offset;
  const uint32_t old_count = header_.snapshot_count;
  uint64_t offset = 0;
  int error = 0;
  if (!snapshots.empty()) {
    error = co_await allocate_metadata(bytes.size(), offset);
    if (error == 0) error = co_await write_bytes(*file_, offset, bytes.data(), bytes.size());
  }
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("the snapshot table cannot be written", error);
  header_.snapshots_offset = offset;
  header_.snapshot_count = static_cast<uint32_t>(snapshots.size());
  auto written = co_await write_header();
  if (written) error = co_await file_->flush();
  if (!written || error != 0) {
    header_.snapshots_offset = old_offset;
    header_.snapshot_count = old_count;
    if (!written) co_return written;
    co_return failed("its header cannot be written", error);
  }
  snapshots_ = std::move(snapshots);
  const std::lock_guard lock(mutex_);
  if (old_count != 0)
    given_up_.push_back({old_offset >> cluster_bits_, (old_bytes + cluster_mask()) >> cluster_bits_, false});
  co_return Result<void>();
}

// `l1` big-endian, as in the file. Adds one to the refcounts of everything that it reaches.
Task<int> Qcow2Node::count_references(const std::vector<uint64_t>& l1) {
  std::vector<uint64_t> table(cluster_bytes_ / 8);
  for (const uint64_t& word : l1) {
    const uint64_t offset = load_be<uint64_t>(&word) & kOffsetMask;
    if (offset == 0) continue;
    if ((offset & cluster_mask()) != 0) co_return -EIO;
    int error = co_await commit_if_much();
    if (error == 0) error = co_await read_bytes(*file_, offset, table.data(), cluster_bytes_);
    if (error == 0) error = co_await change_refcounts(offset >> cluster_bits_, 1, 1);
    for (size_t i = 0; i < table.size() && error == 0; i += entry_bytes_ / 8) {
      Entry entry;
      entry.word = load_be<uint64_t>(&table[i]);
      GivenUp used{};
      if (clusters_of(entry, used)) error = co_await change_refcounts(used.first, used.count, 1);
    }
    if (error != 0) co_return error;
  }
  co_return 0;
}

// Whether count_references() would stay within what refcounts can hold.
Task<int> Qcow2Node::can_count_references(const std::vector<uint64_t>& l1) {
  std::vector<uint64_t> table(cluster_bytes_ / 8);
  for (const uint64_t& word : l1) {
    const uint64_t offset = load_be<uint64_t>(&word) & kOffsetMask;
    if (offset == 0) continue;
    int error = co_await read_bytes(*file_, offset, table.data(), cluster_bytes_);
    uint64_t count = 0;
    if (error == 0) error = co_await refcount(offset >> cluster_bits_, count);
    if (error == 0 && count >= most_refcount()) error = -ERANGE;
    for (size_t i = 0; i < table.size() && error == 0; i += entry_bytes_ / 8) {
      Entry entry;
      entry.word = load_be<uint64_t>(&table[i]);
      GivenUp used{};
      if (!clusters_of(entry, used)) continue;
      for (uint64_t cluster = used.first; cluster < used.first + used.count && error == 0; ++cluster) {
        error = co_await refcount(cluster, count);
        // Several compressed clusters of this table may be in it.
        const uint64_t room = most_refcount() - count;
        if (error == 0 && (entry.compressed() ? room < count : room == 0)) error = -ERANGE;
      }
    }
    if (error != 0) co_return error;
  }
  co_return 0;
}

// Everything that `l1` reaches loses a reference once it is certain that nobody uses this table.
Task<int> Qcow2Node::give_up_references(const std::vector<uint64_t>& l1) {
  std::vector<uint64_t> table(cluster_bytes_ / 8);
  for (const uint64_t& word : l1) {
    const uint64_t offset = load_be<uint64_t>(&word) & kOffsetMask;
    if (offset == 0) continue;
    if ((offset & cluster_mask()) != 0) co_return -EIO;
    int error = co_await commit_if_much();
    if (error == 0) error = co_await read_bytes(*file_, offset, table.data(), cluster_bytes_);
    if (error != 0) co_return error;
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < table.size(); i += entry_bytes_ / 8) {
      Entry entry;
      entry.word = load_be<uint64_t>(&table[i]);
      give_up_locked(entry);
    }
    given_up_.push_back({offset >> cluster_bits_, 1, true});
  }
  co_return 0;
}

// Makes the "copied" bits of the active tables say whether a refcount is one.
Task<int> Qcow2Node::refresh_copied_bits() {
  for (uint64_t index = 0; index < l1_.words.size(); ++index) {
    const uint64_t word = l1_.get(index), offset = word & kOffsetMask;
    if (offset == 0) continue;
    int error = co_await commit_if_much();
    uint64_t count = 0;
    if (error == 0) error = co_await refcount(offset >> cluster_bits_, count);
    if (error != 0) co_return error;
    if (((word & kCopied) != 0) != (count == 1)) {
      const std::lock_guard lock(mutex_);
      l1_.set(index, offset | (count == 1 ? kCopied : 0));
    }
    const uint64_t begin = index * header_.l2_coverage();
    for (uint64_t at = begin; at < begin + header_.l2_coverage(); at += page_span(at)) {
      Pin page;
      error = co_await load_l2(at, page);
      if (error != 0) co_return error;
      const uint64_t end = at + page_span(at);
      for (uint64_t cluster = at; cluster < end; cluster += cluster_bytes_) {
        Entry entry;
        {
          const std::lock_guard lock(mutex_);
          entry = entry_locked(page, cluster);
        }
        if (entry.compressed() || entry.host() == 0) continue;
        error = co_await refcount(entry.host() >> cluster_bits_, count);
        if (error != 0) co_return error;
        if (entry.copied() == (count == 1)) continue;
        entry.word = (entry.word & ~kCopied) | (count == 1 ? kCopied : 0);
        const std::lock_guard lock(mutex_);
        set_entry_locked(page, cluster, entry);
      }
    }
  }
  co_return 0;
}

// Frees what was given up and tells the "copied" bits; the image is whole at every moment.
Task<int> Qcow2Node::settle_references() {
  int error = co_await commit();
  if (error == 0) error = co_await release_given_up(true);
  if (error == 0) error = co_await refresh_copied_bits();
  if (error == 0) error = co_await commit();
  co_return error;
}

Task<Result<std::vector<uint64_t>>> Qcow2Node::read_snapshot_l1(size_t index) {
  TopTable table;
  const uint64_t offset = snapshots_[index].l1_offset, entries = snapshots_[index].l1_entries;
  CO_TRY(co_await read_table(table, offset, entries, "L1 table of a snapshot"));
  co_return std::move(table.words);
}

Task<Result<void>> Qcow2Node::create(SnapshotInfo info) {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  if (data_file_)
    co_return Error(ErrorKind::kUnsupported,
                    filename() + ": an image with an external data file has no snapshots", ENOTSUP);
  if (header_.refcount_order == 0)
    co_return Error(ErrorKind::kUnsupported,
                    filename() + ": refcounts of one bit leave no room for snapshots", ENOTSUP);
  if (info.id.empty()) {
    uint64_t next = 1;
    for (const Stored& each : snapshots_) {
      uint64_t id = 0;
      std::from_chars(each.info.id.data(), each.info.id.data() + each.info.id.size(), id);
      next = std::max(next, id + 1);
    }
    info.id = std::to_string(next);
  } else if (std::ranges::any_of(snapshots_, [&](const Stored& each) { return each.info.id == info.id; })) {
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{}: there is a snapshot '{}' already", filename(), info.id), EEXIST);
  }
  int error = co_await prepare_first_write();
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("a snapshot cannot be made", error);
  Stored stored;
  stored.info = std::move(info);
  stored.info.disk_bytes = size();
  std::vector<uint64_t> words = l1_.words;
  for (uint64_t& word : words) store_be<uint64_t>(&word, load_be<uint64_t>(&word) & ~kCopied);
  stored.l1_entries = static_cast<uint32_t>(words.size());
  const uint64_t l1_bytes = std::max<uint64_t>(words.size() * 8, 8);
  error = co_await can_count_references(words);
  if (error == -ERANGE)
    co_return Error(ErrorKind::kUnsupported,
                    fmt::format("{}: refcounts of {} bits leave no room for another snapshot", filename(),
                                1u << header_.refcount_order),
                    ENOTSUP);
  if (error == 0) error = co_await allocate_metadata(l1_bytes, stored.l1_offset);
  if (error == 0 && !words.empty())
    error = co_await write_bytes(*file_, stored.l1_offset, words.data(), words.size() * 8);
  if (error != 0) co_return failed("there is no room for a snapshot's L1 table", error);
  error = co_await count_references(words);
  if (error == 0) error = co_await commit();
  if (error == 0) error = co_await refresh_copied_bits();
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("a snapshot's references cannot be counted", error);
  std::vector<Stored> next = snapshots_;
  next.push_back(std::move(stored));
  co_return co_await write_snapshots(std::move(next));
}

Task<Result<void>> Qcow2Node::remove(std::string which) {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  CO_TRY_ASSIGN(const size_t index, find_snapshot(which));
  int error = co_await prepare_first_write();
  if (error != 0) co_return failed("a snapshot cannot be deleted", error);
  auto l1 = co_await read_snapshot_l1(index);
  if (!l1) co_return std::move(l1).error();
  const Stored gone = snapshots_[index];
  std::vector<Stored> next = snapshots_;
  next.erase(next.begin() + static_cast<ptrdiff_t>(index));
  CO_TRY(co_await write_snapshots(std::move(next)));
  {
    const std::lock_guard lock(mutex_);
    const uint64_t bytes = std::max<uint64_t>(gone.l1_entries * uint64_t{8}, 8);
    given_up_.push_back({gone.l1_offset >> cluster_bits_, (bytes + cluster_mask()) >> cluster_bits_, false});
  }
  error = co_await give_up_references(*l1);
  if (error == 0) error = co_await settle_references();
  if (error != 0) co_return failed("the deleted snapshot's clusters cannot be freed", error);
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::apply(std::string which) {
  if (read_only_) co_return failed("it is open for reading only", -EROFS);
  CO_TRY_ASSIGN(const size_t index, find_snapshot(which));
  int error = co_await prepare_first_write();
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("a snapshot cannot be applied", error);
  auto l1 = co_await read_snapshot_l1(index);
  if (!l1) co_return std::move(l1).error();
  std::vector<uint64_t> words = *std::move(l1);
  CO_TRY(co_await grow_l1(words.size()));
  words.resize(std::max<size_t>(words.size(), header_.l1_entries));
  error = co_await can_count_references(words);
  if (error == 0) error = co_await count_references(words);
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("a snapshot's references cannot be counted", error);
  const std::vector<uint64_t> old = l1_.words;
  {
    const std::lock_guard lock(mutex_);
    for (uint64_t i = 0; i < words.size(); ++i) l1_.set(i, load_be<uint64_t>(&words[i]) & ~kCopied);
    metadata_known_ = false;
    metadata_.clear();
    decompressed_ = nullptr;
  }
  error = co_await commit();
  if (error != 0) co_return failed("the L1 table cannot be written", error);
  const uint64_t disk_bytes = snapshots_[index].info.disk_bytes;
  if (disk_bytes != size()) {
    header_.size = disk_bytes;
    CO_TRY(co_await write_header());
    virtual_size_ = disk_bytes;
    bitmaps_->resize(disk_bytes);
    resized();
  }
  error = co_await give_up_references(old);
  if (error == 0) error = co_await settle_references();
  if (error != 0) co_return failed("the clusters used before cannot be freed", error);
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::load(std::string which) {
  if (!read_only_)
    co_return Error(ErrorKind::kState, filename() + ": a snapshot is read from an image open for reading");
  CO_TRY_ASSIGN(const size_t index, find_snapshot(which));
  auto l1 = co_await read_snapshot_l1(index);
  if (!l1) co_return std::move(l1).error();
  const std::lock_guard lock(mutex_);
  l1_.assign(snapshots_[index].l1_offset, *std::move(l1));
  partial_l1_ = nullptr;
  virtual_size_ = snapshots_[index].info.disk_bytes;
  co_return Result<void>();
}

}  // namespace ostler::block::qcow2
