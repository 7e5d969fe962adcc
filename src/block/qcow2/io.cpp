// Reading, and writing where the place of the data is known already.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Content Qcow2Node::content(const Entry& entry, uint64_t offset) const {
  if (entry.compressed()) return Content::kCompressedData;
  if (header_.has(kExtendedL2)) {
    const unsigned sub = static_cast<unsigned>((offset & cluster_mask()) / unit_bytes_);
    if ((entry.bitmap >> (kSubclusters + sub) & 1) != 0) return Content::kZero;
    return (entry.bitmap >> sub & 1) != 0 ? Content::kData : Content::kNone;
  }
  if (header_.version >= 3 && (entry.word & kZeroFlag) != 0) return Content::kZero;
  // Offset 0 is the header, except in an external data file.
  if (entry.host() == 0 && !(data_file_ && entry.copied())) return Content::kNone;
  return Content::kData;
}

uint64_t Qcow2Node::page_span(uint64_t offset) const {
  const uint64_t covered = pages_.page_bytes() / entry_bytes_ * cluster_bytes_;
  return covered - offset % covered;
}

bool Qcow2Node::find_table_locked(uint64_t offset, uint64_t& table) const {
  const uint64_t index = offset >> (cluster_bits_ + l2_bits_);
  table = 0;
  if (!partial_l1_) {
    if (index < l1_.words.size()) table = l1_.get(index) & kOffsetMask;
    return true;
  }
  if (index >= partial_l1_->entries) return true;
  const auto& part = partial_l1_->parts[index / PartialTable::kPartWords];
  if (part) table = load_be<uint64_t>(&(*part)[index % PartialTable::kPartWords]) & kOffsetMask;
  return part != nullptr;
}

Task<int> Qcow2Node::load_l1_part(uint64_t offset) {
  const uint64_t index = align_down(offset >> (cluster_bits_ + l2_bits_), PartialTable::kPartWords);
  uint64_t at, count;
  {
    const std::lock_guard lock(mutex_);
    if (!partial_l1_) co_return 0;
    at = partial_l1_->offset + index * 8;
    count = std::min(PartialTable::kPartWords, partial_l1_->entries - index);
  }
  // Two that need it at the same time read it twice, which is seldom and does no harm.
  auto part = std::make_unique<PartialTable::Part>();
  const int error = co_await read_bytes(*file_, at, part->data(), count * 8);
  if (error != 0) co_return error;
  const std::lock_guard lock(mutex_);
  if (partial_l1_) partial_l1_->parts[index / PartialTable::kPartWords] = std::move(part);
  co_return 0;
}

Pin Qcow2Node::find_l2_locked(uint64_t offset, bool& no_table) {
  uint64_t table;
  no_table = false;
  if (!find_table_locked(offset, table)) return Pin();
  no_table = table == 0;
  if (no_table || (table & cluster_mask()) != 0) return Pin();
  const uint64_t index = offset >> cluster_bits_ & ((uint64_t{1} << l2_bits_) - 1);
  return pages_.find_locked(align_down(table + index * entry_bytes_, pages_.page_bytes()));
}

// Every cluster is written, or the file made longer, before a table refers to it.
uint64_t Qcow2Node::file_clusters_end() const {
  // Another program may have made the file longer since.
  return flags_.force_share ? ~uint64_t{0} : align_up(file_->size(), cluster_bytes_);
}

int Qcow2Node::damaged(std::string_view what, uint64_t guest, uint64_t host) {
  if (told_damage_.exchange(true)) return -EIO;
  const std::string why = (host & cluster_mask()) != 0 ? "where no cluster begins"
                          : host == 0                  ? "where the header is"
                                      : fmt::format("and the file ends at {:#x}", file_->size());
  log::warning(
      fmt::format("{} is damaged or incomplete: its tables say that {} of guest offset {:#x} is at {:#x}, "
                  "{}; copy it again, or see by a check what else is lost",
                  filename(), what, guest, host, why));
  return -EIO;
}

Task<int> Qcow2Node::load_l2(uint64_t offset, Pin& pin) {
  uint64_t table;
  for (bool known = false; !known;) {
    {
      const std::lock_guard lock(mutex_);
      pin = Pin();
      known = find_table_locked(offset, table);
    }
    const int error = known ? 0 : co_await load_l1_part(offset);
    if (error != 0) co_return error;
  }
  if (table == 0) co_return 0;
  if ((table & cluster_mask()) != 0 || table >= file_clusters_end())
    co_return damaged("the L2 table", offset, table);
  const uint64_t index = offset >> cluster_bits_ & ((uint64_t{1} << l2_bits_) - 1);
  const uint64_t page = align_down(table + index * entry_bytes_, pages_.page_bytes());
  co_return co_await pages_.load(*file_, page, PageKind::kL2, pin);
}

Entry Qcow2Node::entry_locked(const Pin& page, uint64_t offset) const {
  const uint64_t at = (offset >> cluster_bits_) * entry_bytes_ & (pages_.page_bytes() - 1);
  Entry entry;
  entry.word = load_be<uint64_t>(page.data() + at);
  if (entry_bytes_ == 16) entry.bitmap = load_be<uint64_t>(page.data() + at + 8);
  return entry;
}

void Qcow2Node::set_entry_locked(const Pin& page, uint64_t offset, Entry entry) {
  const uint64_t at = (offset >> cluster_bits_) * entry_bytes_ & (pages_.page_bytes() - 1);
  store_be<uint64_t>(page.data() + at, entry.word);
  if (entry_bytes_ == 16) store_be<uint64_t>(page.data() + at + 8, entry.bitmap);
  pages_.set_dirty_locked(*page.page());
}

Qcow2Node::Run Qcow2Node::find_run_locked(const Pin& page, uint64_t offset, uint64_t bytes, Runs runs) const {
  const uint64_t limit = std::min(bytes, page_span(offset));
  Entry entry = entry_locked(page, offset);
  Run run;
  run.content = content(entry, offset);
  if (run.content == Content::kCompressedData) {
    run.host = entry.word;
    run.bytes = std::min(limit, cluster_bytes_ - (offset & cluster_mask()));
    return run;
  }
  const uint64_t clusters_end = data_file_ ? ~uint64_t{0} : file_clusters_end();
  if (run.content == Content::kData) {
    run.own = entry.copied();
    run.bad = (entry.host() & cluster_mask()) != 0 || (entry.host() == 0 && !data_file_) ||
              entry.host() >= clusters_end;
  }
  run.placed = run.content == Content::kData || entry.host() != 0;
  if (run.placed) run.host = entry.host() + (offset & cluster_mask());
  const bool in_one_place = runs == Runs::kInOnePlace;
  uint64_t at = align_down(offset, unit_bytes_) + unit_bytes_;
  for (; at - offset < limit; at += unit_bytes_) {
    if ((at & cluster_mask()) == 0) entry = entry_locked(page, at);
    if (content(entry, at) != run.content) break;
    const bool follows = entry.host() + (at & cluster_mask()) == run.host + (at - offset);
    if (run.content == Content::kData && (!follows || entry.copied() != run.own)) break;
    if (run.content == Content::kData && entry.host() >= clusters_end && !run.bad) break;
    if (in_one_place && run.content != Content::kData &&
        ((entry.host() != 0) != run.placed || (run.placed && !follows)))
      break;
  }
  run.bytes = std::min(at - offset, limit);
  return run;
}

Task<int> Qcow2Node::read_backing(uint64_t offset, Buffers to) {
  if (!backing_) {
    fill_zeroes(to);
    co_return 0;
  }
  co_return co_await backing_->read(offset, to);
}

Task<int> Qcow2Node::read_run(Run run, uint64_t offset, Buffers whole, uint64_t from, uint64_t epoch) {
  const Slice part(whole, from, run.bytes);
  int error = 0;
  switch (run.content) {
    case Content::kNone:
      error = co_await read_backing(offset, part);
      break;
    case Content::kZero:
      fill_zeroes(part);
      break;
    case Content::kData:
      if (encryption_)
        error = co_await read_encrypted(run.host, offset, part);
      else
        error = co_await data_node().read(run.host, part);
      break;
    case Content::kCompressedData:
      error = co_await read_compressed(run.host, offset, part);
      break;
  }
  const std::lock_guard lock(mutex_);
  epochs_.leave(epoch);
  co_return error;
}

Task<int> Qcow2Node::read(uint64_t offset, Buffers to) {
  if (encryption_ && !encryption_->unlocked()) co_return -EACCES;
  uint64_t total = total_bytes(to);
  const uint64_t end = size();
  if (offset + total > end) {
    const uint64_t inside = end - std::min(end, offset);
    fill_zeroes(to, inside);
    total = inside;
  }
  TaskGroup group;
  int error = 0;
  for (uint64_t done = 0; done < total && error == 0;) {
    const uint64_t at = offset + done;
    Run run;
    uint64_t epoch;
    bool no_table = false, missing = false;
    {
      const std::lock_guard lock(mutex_);
      const Pin page = find_l2_locked(at, no_table);
      if (page)
        run = find_run_locked(page, at, total - done);
      else if (no_table)
        run.bytes = std::min(total - done, page_span(at));
      else
        missing = true;
      epoch = missing || run.bad ? 0 : epochs_.enter();
    }
    if (missing) {
      Pin page;
      error = co_await load_l2(at, page);
      continue;
    }
    if (run.bad) {
      error = damaged("the data", at, run.host - (at & cluster_mask()));
    } else if (run.bytes == total) {
      co_return co_await read_run(run, at, to, 0, epoch);
    } else {
      error = co_await group.start(read_run(run, at, to, done, epoch));
    }
    done += run.bytes;
  }
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

int Qcow2Node::try_read(uint64_t offset, Buffers to) {
  const uint64_t total = total_bytes(to);
  if (offset + total > size() || encryption_) return -EAGAIN;
  uint64_t epoch;
  Run run;
  {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return -EAGAIN;
    bool no_table = false;
    const Pin page = find_l2_locked(offset, no_table);
    if (page)
      run = find_run_locked(page, offset, total);
    else if (no_table)
      run.bytes = std::min(total, page_span(offset));
    if (run.bytes < total || run.bad || run.content == Content::kCompressedData) return -EAGAIN;
    epoch = epochs_.enter();
  }
  int result = 0;
  if (run.content == Content::kData)
    result = data_node().try_read(run.host, to);
  else if (run.content == Content::kNone && backing_)
    result = offset + total <= backing_->size() ? backing_->try_read(offset, to) : -EAGAIN;
  else
    fill_zeroes(to);
  const std::lock_guard lock(mutex_);
  epochs_.leave(epoch);
  return result;
}

int Qcow2Node::try_write(uint64_t offset, Buffers from) {
  const uint64_t total = total_bytes(from);
  if (read_only_ || !prepared_ || bitmaps_->any() || encryption_ || offset + total > size()) return -EAGAIN;
  uint64_t epoch;
  Run run;
  {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return -EAGAIN;
    bool no_table = false;
    const Pin page = find_l2_locked(offset, no_table);
    if (!page) return -EAGAIN;
    run = find_run_locked(page, offset, total);
    if (run.bytes < total || run.bad || run.content != Content::kData || !run.own) return -EAGAIN;
    epoch = epochs_.enter();
  }
  const int result = data_node().try_write(run.host, from);
  const std::lock_guard lock(mutex_);
  epochs_.leave(epoch);
  return result;
}

Task<int> Qcow2Node::write_run(uint64_t host, Buffers whole, uint64_t from, uint64_t bytes, uint64_t epoch) {
  const Slice part(whole, from, bytes);
  const int error = co_await write_data(host, part);
  const std::lock_guard lock(mutex_);
  epochs_.leave(epoch);
  co_return error;
}

Task<int> Qcow2Node::write(uint64_t offset, Buffers from) {
  const uint64_t total = total_bytes(from);
  if (offset + total > align_up(size(), 512)) co_return -EINVAL;
  if (!prepared_) {
    const int error = co_await prepare_first_write();
    if (error != 0) co_return error;
  }
  bitmaps_->written(offset, total);
  co_return co_await write_here(offset, from);
}

Task<int> Qcow2Node::write_here(uint64_t offset, Buffers from) {
  const uint64_t total = total_bytes(from);
  if (corrupt_) co_return -EIO;
  if (encryption_ && !encryption_->cipher) co_return -EACCES;
  TaskGroup group;
  int error = 0;
  for (uint64_t done = 0; done < total && error == 0;) {
    const uint64_t at = offset + done;
    Run run;
    uint64_t epoch = 0;
    bool no_table = false, missing = false, in_place = false;
    {
      const std::lock_guard lock(mutex_);
      const Pin page = find_l2_locked(at, no_table);
      if (page) {
        run = find_run_locked(page, at, total - done);
        in_place = run.content == Content::kData && run.own && !run.bad;
        if (in_place) epoch = epochs_.enter();
      } else {
        missing = !no_table;
      }
    }
    if (missing) {
      Pin page;
      error = co_await load_l2(at, page);
      continue;
    }
    if (run.bad) {
      error = co_await report_corruption("a data cluster's offset breaks the format");
      break;
    }
    if (in_place) {
      if (run.bytes == total) co_return co_await write_run(run.host, from, 0, total, epoch);
      error = co_await group.start(write_run(run.host, from, done, run.bytes, epoch));
      done += run.bytes;
      continue;
    }
    uint64_t written = 0;
    const Slice rest(from, done, total - done);
    error = co_await write_allocating(at, rest, written);
    done += written;
  }
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

}  // namespace ostler::block::qcow2
