#include "block/qcow2/checker.h"

#include <algorithm>
#include <cstring>

namespace ostler::block::qcow2 {
namespace {

constexpr uint64_t kWindow = 8u << 20;  // clusters
constexpr size_t kMostMessages = 1000;
constexpr uint64_t kMostSnapshotEntries = 64u << 20;  // of all L1 tables together

}  // namespace

Task<Result<CheckReport>> Qcow2Node::check(CheckOptions options) {
  if (!read_only_) {
    const int error = co_await commit();
    if (error != 0) co_return failed("its metadata cannot be written", error);
  }
  if (read_only_) {
    if (partial_l1_) CO_TRY(co_await read_l1(header_.l1_offset, header_.l1_entries));
    CO_TRY(co_await read_table(refcount_table_, header_.refcount_table_offset,
                               header_.refcount_table_clusters * cluster_bytes_ / 8, "refcount table"));
  }
  RefcountCheck check(*this, options);
  auto report = co_await check.run();
  if (report && !read_only_ && report->corruptions == 0 && report->errors == 0 &&
      (options.repair_errors || options.repair_leaks)) {
    header_.incompatible &= ~uint64_t{kDirty | kCorrupt};
    corrupt_ = false;
    CO_TRY(co_await write_header());
    if (const int error = co_await file_->flush(); error != 0)
      co_return failed("its header cannot be written", error);
  }
  co_return report;
}

void RefcountCheck::add_message(std::string message) {
  if (report_.messages.size() < kMostMessages)
    report_.messages.push_back(std::move(message));
  else
    ++report_.messages_left_out;
}

void RefcountCheck::mark(uint64_t offset, uint64_t bytes, const char* what) {
  if (bytes == 0) return;
  const unsigned bits = image_.cluster_bits_;
  const uint64_t first = offset >> bits, last = (offset + bytes - 1) >> bits;
  if (offset + bytes < offset || last >= file_clusters_) {
    tell("ERROR: {} at {:#x} with {} bytes reaches beyond the end of the file", what, offset, bytes);
    corruption();
    return;
  }
  highest_ = std::max(highest_, last);
  for (uint64_t cluster = std::max(first, window_); cluster <= last && cluster - window_ < counts_.size();
       ++cluster)
    if (counts_[cluster - window_] != ~uint32_t{0}) ++counts_[cluster - window_];
}

Task<Result<void>> RefcountCheck::walk_l2(uint64_t offset, bool active) {
  const Header& h = image_.header_;
  const AlignedBuffer table(image_.cluster_bytes_);
  if (!table) co_return image_.failed("an L2 table cannot be checked", -ENOMEM);
  if (const int error = co_await read_bytes(*image_.file_, offset, table.data(), table.size()); error != 0) {
    tell("ERROR: the L2 table at {:#x} cannot be read: {}", offset, std::strerror(-error));
    if (first_walk_) ++report_.errors;
    co_return Result<void>();
  }
  for (size_t at = 0; at < table.size(); at += image_.entry_bytes_) {
    Entry entry;
    entry.word = load_be<uint64_t>(table.data() + at);
    if (image_.entry_bytes_ == 16) entry.bitmap = load_be<uint64_t>(table.data() + at + 8);
    if (entry.word == 0 && entry.bitmap == 0) continue;
    const bool count_it = active && first_walk_;
    if (entry.compressed()) {
      if (entry.copied()) {
        tell("ERROR: the entry at {:#x} is compressed and \"copied\"", offset + at);
        corruption();
      }
      if (h.has(kDataFile)) {
        tell("ERROR: the entry at {:#x} is compressed, in an image with a data file", offset + at);
        corruption();
        continue;
      }
      const unsigned shift = 62 - (image_.cluster_bits_ - 8);
      const uint64_t begin = entry.word & ((uint64_t{1} << shift) - 1);
      const uint64_t sectors = (entry.word >> shift & ((uint64_t{1} << (image_.cluster_bits_ - 8)) - 1)) + 1;
      const uint64_t from = align_down(begin, 512);
      // The last sector may end beyond a file that was not padded.
      mark(from,
           std::min(sectors * 512, std::max<uint64_t>(align_up(image_.file_->size(), 512), from + 1) - from),
           "a compressed cluster");
      if (count_it) {
        ++report_.allocated_clusters;
        ++report_.compressed_clusters;
        ++report_.fragmented_clusters;
      }
      continue;
    }
    if (image_.entry_bytes_ == 16 && (entry.bitmap & entry.bitmap >> 32 & 0xffffffff) != 0) {
      tell("ERROR: the entry at {:#x} has subclusters that are both allocated and zero", offset + at);
      corruption();
    }
    const uint64_t host = entry.host();
    if ((host & image_.cluster_mask()) != 0) {
      tell("ERROR: the entry at {:#x} has the offset {:#x}, which is no cluster's", offset + at, host);
      corruption();
      continue;
    }
    if (h.has(kDataFile)) {
      if (count_it && (host != 0 || entry.copied())) ++report_.allocated_clusters;
      continue;
    }
    if (host == 0) continue;
    mark(host, image_.cluster_bytes_, "a data cluster");
    if (count_it) {
      ++report_.allocated_clusters;
      if (next_in_a_row_ != 0 && host != next_in_a_row_) ++report_.fragmented_clusters;
      next_in_a_row_ = host + image_.cluster_bytes_;
    }
  }
  co_return Result<void>();
}

Task<Result<void>> RefcountCheck::walk_l1(uint64_t offset, uint64_t entries, bool active) {
  if (entries == 0) co_return Result<void>();
  mark(offset, entries * 8, "an L1 table");
  const uint64_t file_end = file_clusters_ << image_.cluster_bits_;
  if (offset >= file_end || entries * 8 > file_end - offset) co_return Result<void>();
  std::vector<uint64_t> words(entries);
  if (const int error = co_await read_bytes(*image_.file_, offset, words.data(), entries * 8); error != 0)
    co_return image_.failed("an L1 table cannot be read", error);
  for (uint64_t& word : words) word = load_be<uint64_t>(&word) & kOffsetMask;
  // A table that is met twice is walked once: two parts of a disk cannot share one.
  std::vector<uint64_t> sorted = words;
  std::erase(sorted, 0);
  std::ranges::sort(sorted);
  if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end()) {
    tell("ERROR: the L1 table at {:#x} has the L2 table at {:#x} more than once", offset, *twice);
    corruption();
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    words = sorted;
  }
  sorted = {};
  for (const uint64_t table : words) {
    if (table == 0) continue;
    if ((table & image_.cluster_mask()) != 0) {
      tell("ERROR: an L2 table's offset is {:#x}, which is no cluster's", table);
      corruption();
      continue;
    }
    mark(table, image_.cluster_bytes_, "an L2 table");
    if (table >> image_.cluster_bits_ >= file_clusters_) continue;
    CO_TRY(co_await walk_l2(table, active));
  }
  co_return Result<void>();
}

// Counts the references to clusters of the window.
Task<Result<void>> RefcountCheck::walk() {
  const Header& h = image_.header_;
  mark(0, image_.cluster_bytes_, "the header");
  mark(h.encryption_header.offset, h.encryption_header.bytes, "the encryption header");
  CO_TRY(co_await walk_l1(h.l1_offset, h.l1_entries, true));
  uint64_t entries = 0;
  for (const Stored& each : image_.snapshots_) {
    entries += each.l1_entries;
    if (entries > kMostSnapshotEntries)
      co_return Error(ErrorKind::kUnsupported,
                      image_.filename() + ": its snapshots have too many L1 entries to be checked");
    if (each.l1_entries == 0)
      mark(each.l1_offset, 8, "a snapshot's L1 table");
    else
      CO_TRY(co_await walk_l1(each.l1_offset, each.l1_entries, false));
  }
  if (h.snapshot_count != 0)
    mark(h.snapshots_offset, serialize_snapshots(image_.snapshots_).size(), "the snapshot table");
  CO_TRY(co_await walk_bitmaps());
  if (skip_refcount_structures_) co_return Result<void>();
  mark(h.refcount_table_offset, h.refcount_table_clusters * image_.cluster_bytes_, "the refcount table");
  for (uint64_t i = 0; i < image_.refcount_table_.words.size(); ++i) {
    const uint64_t block = image_.refcount_table_.get(i) & kRefcountOffsetMask;
    if (block == 0) continue;
    if ((block & image_.cluster_mask()) != 0 || block >> image_.cluster_bits_ >= file_clusters_) {
      tell("ERROR: refcount block {} is at {:#x}", i, block);
      corruption();
      must_rebuild_ = true;
      continue;
    }
    mark(block, image_.cluster_bytes_, "a refcount block");
  }
  co_return Result<void>();
}

Task<Result<void>> RefcountCheck::count_window(uint64_t first) {
  window_ = first;
  counts_.assign(std::min(kWindow, file_clusters_ - std::min(first, file_clusters_)), 0);
  auto result = co_await walk();
  first_walk_ = false;
  co_return result;
}

// The window's references against its refcounts.
Task<Result<void>> RefcountCheck::compare() {
  for (uint64_t i = 0; i < counts_.size(); ++i) {
    const uint64_t cluster = window_ + i, expected = counts_[i];
    uint64_t stored = 0;
    if (const int error = co_await image_.refcount(cluster, stored); error != 0) {
      // The block is elsewhere than it can be; the walk has said so.
      if (expected != 0) must_rebuild_ = true;
      continue;
    }
    if (stored == expected) continue;
    const bool leak = stored > expected;
    add_message(fmt::format("{} cluster {} refcount={} reference={}", leak ? "Leaked" : "ERROR", cluster,
                            stored, expected));
    const bool repair = leak ? options_.repair_leaks : options_.repair_errors;
    if (repair && expected <= image_.most_refcount()) {
      Pin page;
      const int error = co_await image_.load_refcount_page(cluster, page);
      if (error == 0 && page) {
        const std::lock_guard lock(image_.mutex_);
        image_.set_refcount_locked(page, cluster, expected);
        image_.search_from_ = std::min(image_.search_from_, cluster);
        ++(leak ? report_.leaks_fixed : report_.corruptions_fixed);
        continue;
      }
    }
    if (!leak) must_rebuild_ = true;
    ++(leak ? report_.leaks : report_.corruptions);
  }
  co_return Result<void>();
}

// "copied" says that a refcount is one; in a data file every cluster has it.
Task<Result<void>> RefcountCheck::check_copied_bits() {
  const bool repair = options_.repair_errors && !image_.read_only_;
  const auto wrong = [&](const char* what, uint64_t offset, bool copied) {
    add_message(fmt::format("{} {} at {:#x}: \"copied\" is {} although its refcount is {}one",
                            repair ? "Repairing" : "ERROR", what, offset, copied ? "set" : "clear",
                            copied ? "not " : ""));
    ++(repair ? report_.corruptions_fixed : report_.corruptions);
  };
  const uint64_t coverage = image_.header_.l2_coverage();
  std::vector<uint64_t> tables;
  for (uint64_t index = 0; index < image_.l1_.words.size(); ++index) {
    const uint64_t word = image_.l1_.get(index), table = word & kOffsetMask;
    if (table == 0 || (table & image_.cluster_mask()) != 0 || table >> image_.cluster_bits_ >= file_clusters_)
      continue;
    uint64_t count = 0;
    const int error = co_await image_.refcount(table >> image_.cluster_bits_, count);
    if (error != 0) continue;
    const bool copied = (word & kCopied) != 0;
    if (copied != (count == 1)) {
      wrong("L2 table", table, copied);
      const std::lock_guard lock(image_.mutex_);
      if (repair) image_.l1_.set(index, table | (count == 1 ? kCopied : 0));
    }
    for (uint64_t at = index * coverage; at < (index + 1) * coverage;) {
      const uint64_t end = at + image_.page_span(at);
      Pin page;
      const int load_error = co_await image_.load_l2(at, page);
      if (load_error != 0 || !page) break;
      for (; at < end; at += image_.cluster_bytes_) {
        Entry entry;
        {
          const std::lock_guard lock(image_.mutex_);
          entry = image_.entry_locked(page, at);
        }
        const uint64_t host = entry.host();
        if (entry.compressed() || (host & image_.cluster_mask()) != 0) continue;
        bool should = true;
        if (!image_.data_file_) {
          if (host == 0 || host >> image_.cluster_bits_ >= file_clusters_) continue;
          const int count_error = co_await image_.refcount(host >> image_.cluster_bits_, count);
          if (count_error != 0) continue;
          should = count == 1;
        } else if (host == 0) {
          continue;
        }
        if (entry.copied() == should) continue;
        wrong("data cluster", host, entry.copied());
        entry.word = (entry.word & ~kCopied) | (should ? kCopied : 0);
        const std::lock_guard lock(image_.mutex_);
        if (repair) image_.set_entry_locked(page, at, entry);
      }
      if (repair) {
        const int commit_error = co_await image_.commit_if_much();
        if (commit_error != 0) break;
      }
    }
  }
  co_return Result<void>();
}

// New refcount blocks and a new table behind everything, when the old ones are not where they can be.
Task<Result<void>> RefcountCheck::rebuild() {
  Qcow2Node& image = image_;
  const uint64_t per_block = image.refcounts_per_block(), cluster_bytes = image.cluster_bytes_;
  const uint64_t data_clusters = file_clusters_;
  uint64_t blocks = 0, table_clusters = 0;
  for (uint64_t before = ~uint64_t{0}; before != blocks + table_clusters;) {
    before = blocks + table_clusters;
    blocks = (data_clusters + before + per_block - 1) / per_block;
    table_clusters = (blocks * 8 + cluster_bytes - 1) / cluster_bytes;
  }
  if (table_clusters * cluster_bytes > kMostRefcountTableBytes)
    co_return Error(ErrorKind::kUnsupported,
                    image.filename() + ": the file is too large for its refcounts to be rebuilt");
  skip_refcount_structures_ = true;
  TopTable old;
  {
    const std::lock_guard lock(image.mutex_);
    image.pages_.clear_locked();
    old.words.assign(table_clusters * cluster_bytes / 8, 0);
  }
  std::vector<uint64_t> table = std::move(old.words);
  const uint64_t block_at = data_clusters, table_at = data_clusters + blocks, end = table_at + table_clusters;
  const AlignedBuffer block(cluster_bytes);
  if (!block) co_return image.failed("refcounts cannot be rebuilt", -ENOMEM);
  // Blocks are filled through the same code that sets single refcounts, on a page of a whole cluster's size.
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t first = b * per_block;
    if (first < data_clusters && (counts_.empty() || first < window_ || first >= window_ + counts_.size()))
      CO_TRY(co_await count_window(first));
    std::memset(block.data(), 0, cluster_bytes);
    for (uint64_t i = 0; i < per_block && first + i < end; ++i) {
      const uint64_t cluster = first + i;
      if (cluster < data_clusters && cluster - window_ >= counts_.size())
        CO_TRY(co_await count_window(cluster));
      uint64_t value = cluster >= data_clusters ? 1 : counts_[cluster - window_];
      value = std::min(value, image.most_refcount());
      store_refcount(block.data(), i, image.header_.refcount_order, value);
    }
    const int error = co_await write_bytes(*image.file_, (block_at + b) << image.cluster_bits_, block.data(),
                                           cluster_bytes);
    if (error != 0) co_return image.failed("a refcount block cannot be written", error);
    store_be<uint64_t>(&table[b], (block_at + b) << image.cluster_bits_);
  }
  int error =
      co_await write_bytes(*image.file_, table_at << image.cluster_bits_, table.data(), table.size() * 8);
  if (error == 0) error = co_await image.file_->flush();
  if (error != 0) co_return image.failed("the refcount table cannot be written", error);
  image.header_.refcount_table_offset = table_at << image.cluster_bits_;
  image.header_.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
  CO_TRY(co_await image.write_header());
  error = co_await image.file_->flush();
  if (error != 0) co_return image.failed("its header cannot be written", error);
  const std::lock_guard lock(image.mutex_);
  image.refcount_table_.assign(table_at << image.cluster_bits_, std::move(table));
  image.search_from_ = 0;
  image.metadata_known_ = false;
  image.metadata_.clear();
  if (image.virgin_from_ != ~uint64_t{0})
    image.virgin_from_ = std::max(image.virgin_from_, end << image.cluster_bits_);
  co_return Result<void>();
}

Task<Result<CheckReport>> RefcountCheck::run() {
  file_clusters_ = (image_.file_->size() + image_.cluster_mask()) >> image_.cluster_bits_;
  report_.total_clusters = (image_.size() + image_.cluster_mask()) >> image_.cluster_bits_;
  for (uint64_t first = 0; first == 0 || first < file_clusters_; first += kWindow) {
    CO_TRY(co_await count_window(first));
    CO_TRY(co_await compare());
  }
  if (must_rebuild_ && options_.repair_errors && !image_.read_only_) {
    const uint64_t fixed = report_.corruptions + report_.leaks;
    if (const int error = co_await image_.commit(); error != 0)
      co_return image_.failed("its metadata cannot be written", error);
    CO_TRY(co_await rebuild());
    // What remains is found by looking again.
    CheckReport before = std::move(report_);
    report_ = {};
    first_walk_ = true;
    must_rebuild_ = skip_refcount_structures_ = false;
    counts_.clear();
    highest_ = next_in_a_row_ = 0;
    file_clusters_ = (image_.file_->size() + image_.cluster_mask()) >> image_.cluster_bits_;
    report_.total_clusters = before.total_clusters;
    for (uint64_t first = 0; first == 0 || first < file_clusters_; first += kWindow) {
      CO_TRY(co_await count_window(first));
      CO_TRY(co_await compare());
    }
    const uint64_t remain = report_.corruptions + report_.leaks;
    report_.corruptions_fixed += before.corruptions_fixed + (fixed > remain ? fixed - remain : 0);
    report_.leaks_fixed += before.leaks_fixed;
    report_.messages = std::move(before.messages);
    report_.messages_left_out += before.messages_left_out;
  }
  CO_TRY(co_await check_copied_bits());
  if (!image_.read_only_ && (options_.repair_errors || options_.repair_leaks))
    if (const int error = co_await image_.commit(); error != 0)
      co_return image_.failed("repairs cannot be written", error);
  report_.image_end_offset = (highest_ + 1) << image_.cluster_bits_;
  co_return std::move(report_);
}

}  // namespace ostler::block::qcow2
