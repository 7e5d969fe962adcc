// Writing metadata so that a power cut at any moment leaves an image that is whole (docs/block.md, "qcow2 and
// power cuts"):
//   1. refcounts; then a flush, which also makes the data stable that L2 tables will point to
//   2. the refcount table; flush
//   3. L2 tables; flush
//   4. the L1 table; flush
//   5. only now clusters that lost their last reference are free.
// Everything is copied under the mutex first: what is written is one consistent state, while requests go on
// changing memory.
#include <fmt/format.h>

#include <algorithm>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

constexpr size_t kMuchDirty = 2 << 20;
constexpr uint64_t kSectorWords = 64;  // of a table in memory

struct Sector {
  uint64_t first;  // word
  uint64_t offset;
  std::vector<uint64_t> words;
};

std::vector<Sector> take_dirty(TopTable& table) {
  std::vector<Sector> sectors;
  if (!table.any_dirty) return sectors;
  for (uint64_t i = 0; i < table.dirty.size(); ++i) {
    if (!table.dirty[i]) continue;
    table.dirty[i] = false;
    const uint64_t first = i * kSectorWords,
                   end = std::min<uint64_t>(first + kSectorWords, table.words.size());
    sectors.push_back({first,
                       table.offset + first * 8,
                       {table.words.begin() + static_cast<ptrdiff_t>(first),
                        table.words.begin() + static_cast<ptrdiff_t>(end)}});
  }
  table.any_dirty = false;
  return sectors;
}

void make_dirty(TopTable& table, const std::vector<Sector>& sectors) {
  for (const Sector& each : sectors)
    if (each.first / kSectorWords < table.dirty.size()) {
      table.dirty[each.first / kSectorWords] = true;
      table.any_dirty = true;
    }
}

Task<int> write_sectors(Node& file, const std::vector<Sector>& sectors) {
  for (const Sector& each : sectors) {
    const int error = co_await write_bytes(file, each.offset, each.words.data(), each.words.size() * 8);
    if (error != 0) co_return error;
  }
  co_return 0;
}

// Neighbours in the file by one request.
Task<int> write_pages(Node& file, const std::vector<PageCache::Copy>& pages, PageKind kind) {
  std::vector<iovec> pieces;
  for (size_t i = 0; i < pages.size();) {
    if (pages[i].kind != kind) {
      ++i;
      continue;
    }
    const uint64_t offset = pages[i].offset;
    uint64_t end = offset;
    pieces.clear();
    for (; i < pages.size() && pages[i].kind == kind && pages[i].offset == end && pieces.size() < 64; ++i) {
      pieces.push_back(pages[i].data.as_iovec());
      end += pages[i].data.size();
    }
    const int error = co_await file.write(offset, pieces);
    if (error != 0) co_return error;
  }
  co_return 0;
}

}  // namespace

void TopTable::set(uint64_t index, uint64_t value) {
  store_be<uint64_t>(&words[index], value);
  dirty[index / kSectorWords] = true;
  any_dirty = true;
}

void TopTable::assign(uint64_t new_offset, std::vector<uint64_t> content) {
  offset = new_offset;
  words = std::move(content);
  dirty.assign((words.size() + kSectorWords - 1) / kSectorWords, false);
  any_dirty = false;
}

Task<int> Qcow2Node::flush_files() {
  int error = co_await file_->flush();
  if (data_file_) {
    const int data_error = co_await data_file_->flush();
    if (error == 0) error = data_error;
  }
  co_return error;
}

Task<int> Qcow2Node::commit_if_much() {
  {
    const std::lock_guard lock(mutex_);
    if (pages_.dirty_bytes_locked() < kMuchDirty && given_up_.size() < 65536) co_return 0;
  }
  const Mutex::Guard alone = co_await committing_.lock();
  {
    const std::lock_guard lock(mutex_);
    if (pages_.dirty_bytes_locked() < kMuchDirty && given_up_.size() < 65536) co_return 0;
  }
  co_return co_await commit_alone(false);
}

Task<int> Qcow2Node::commit() {
  const Mutex::Guard alone = co_await committing_.lock();
  co_return co_await commit_alone(true);
}

Task<int> Qcow2Node::commit_alone(bool final_flush) {
  std::vector<PageCache::Copy> pages;
  std::vector<Sector> l1, table;
  Batch batch;
  bool memory = true;
  {
    const std::lock_guard lock(mutex_);
    pages = pages_.begin_write_locked(memory);
    if (!memory) co_return -ENOMEM;
    l1 = take_dirty(l1_);
    table = take_dirty(refcount_table_);
    batch.clusters = std::move(given_up_);
    given_up_.clear();
    batch.epoch = batch.clusters.empty() ? 0 : epochs_.advance();
  }
  const bool has_l2 = std::ranges::any_of(pages, [](const auto& copy) { return copy.kind == PageKind::kL2; });
  int error = co_await write_pages(*file_, pages, PageKind::kRefcount);
  if (error == 0 && !table.empty()) {
    error = co_await flush_files();
    if (error == 0) error = co_await write_sectors(*file_, table);
  }
  if (error == 0 && (has_l2 || !l1.empty())) error = co_await flush_files();
  if (error == 0 && has_l2) error = co_await write_pages(*file_, pages, PageKind::kL2);
  if (error == 0 && !l1.empty()) {
    error = co_await flush_files();
    if (error == 0) error = co_await write_sectors(*file_, l1);
  }
  if (error == 0 && (final_flush || !batch.clusters.empty())) error = co_await flush_files();
  {
    const std::lock_guard lock(mutex_);
    pages_.end_write_locked(pages, error != 0);
    if (error != 0) {
      make_dirty(l1_, l1);
      make_dirty(refcount_table_, table);
      given_up_.insert(given_up_.end(), batch.clusters.begin(), batch.clusters.end());
    } else if (!batch.clusters.empty()) {
      waiting_.push_back(std::move(batch));
    }
  }
  if (error == 0) error = co_await release_given_up(false);
  co_return error;
}

Task<int> Qcow2Node::flush() {
  if (read_only_) co_return 0;
  co_return co_await commit();
}

Task<Result<void>> Qcow2Node::write_header() {
  const Mutex::Guard alone = co_await writing_header_.lock();
  CO_TRY_ASSIGN(const std::vector<std::byte> bytes, header_.serialize(filename()));
  const int error = co_await write_bytes(*file_, 0, bytes.data(), bytes.size());
  if (error != 0) co_return failed("its header cannot be written", error);
  co_return Result<void>();
}

Error Qcow2Node::failed(std::string what, int error) const {
  return errno_error(fmt::format("{}: {}", filename(), what), -error);
}

// Before the first change: features that older programs set and we do not keep up are cleared, what we may
// leave unfinished is announced.
Task<int> Qcow2Node::prepare_first_write() {
  const Mutex::Guard alone = co_await preparing_.lock();
  if (prepared_) co_return 0;
  if (read_only_) co_return -EROFS;
  if (header_.version >= 3) {
    const Header before = header_;
    header_.autoclear &= kKnownAutoclear;
    if ((header_.compatible & kLazyRefcounts) != 0) header_.incompatible |= kDirty;
    if (header_.autoclear != before.autoclear || header_.incompatible != before.incompatible) {
      auto written = co_await write_header();
      int error = written ? 0 : -EIO;
      if (written) error = co_await file_->flush();
      if (error != 0) {
        header_ = before;
        co_return error;
      }
    }
  }
  const int marked = co_await mark_bitmaps_in_use();
  if (marked != 0) co_return marked;
  prepared_ = true;
  co_return 0;
}

}  // namespace ostler::block::qcow2
