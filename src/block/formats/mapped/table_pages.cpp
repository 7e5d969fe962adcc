#include "block/formats/mapped/table_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ostler::block {
template <class Act>
bool TablePages::with_page(uint64_t offset, Act act) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(offset / kPageBytes);
  if (found == index_.end()) return false;
  pages_.splice(pages_.begin(), pages_, found->second);
  act(*found->second, offset % kPageBytes);
  return true;
}

// The place of the one that was not used for the longest time; pages with changes stay.
TablePages::Page& TablePages::new_page() {
  if (pages_.size() >= kMostPages) {
    const auto old = std::find_if(pages_.rbegin(), pages_.rend(),
                                  [](const Page& page) { return (page.changed | page.taken) == 0; });
    if (old != pages_.rend()) {
      index_.erase(old->number);
      pages_.splice(pages_.begin(), pages_, std::prev(old.base()));
      return pages_.front();
    }
  }
  return pages_.emplace_front();
}

Task<int> TablePages::load(Node& file, uint64_t number) {
  const AlignedBuffer fresh(kPageBytes);
  if (!fresh) co_return -ENOMEM;
  for (;;) {
    uint64_t before;
    {
      const std::lock_guard lock(mutex_);
      before = changes_;
    }
    const int error = co_await read_bytes(file, number * kPageBytes, fresh.data(), kPageBytes);
    if (error != 0) co_return error;
    const std::lock_guard lock(mutex_);
    if (index_.contains(number)) co_return 0;
    if (changes_ != before) continue;
    Page& page = new_page();
    page.number = number;
    page.changed = page.taken = 0;
    std::memcpy(page.bytes.data(), fresh.data(), kPageBytes);
    index_[number] = pages_.begin();
    co_return 0;
  }
}

Task<int> TablePages::read(Node& file, uint64_t offset, void* to, size_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  while (bytes != 0) {
    const size_t piece = std::min<size_t>(bytes, kPageBytes - offset % kPageBytes);
    const auto copy = [&](const Page& page, size_t at) {
      std::memcpy(target, page.bytes.data() + at, piece);
    };
    while (!with_page(offset, copy)) {
      const int error = co_await load(file, offset / kPageBytes);
      if (error != 0) co_return error;
    }
    offset += piece;
    target += piece;
    bytes -= piece;
  }
  co_return 0;
}

Task<int> TablePages::change(Node& file, uint64_t offset, const void* from, size_t bytes) {
  const auto* source = static_cast<const std::byte*>(from);
  while (bytes != 0) {
    const size_t piece = std::min<size_t>(bytes, kPageBytes - offset % kPageBytes);
    const auto copy = [&](Page& page, size_t at) {
      std::memcpy(page.bytes.data() + at, source, piece);
      if ((page.changed | page.taken) == 0) ++changed_;
      for (size_t sector = at / kSector; sector <= (at + piece - 1) / kSector; ++sector)
        page.changed |= uint32_t{1} << sector;
      ++changes_;
    };
    while (!with_page(offset, copy)) {
      const int error = co_await load(file, offset / kPageBytes);
      if (error != 0) co_return error;
    }
    offset += piece;
    source += piece;
    bytes -= piece;
  }
  co_return 0;
}

Task<int> TablePages::clear_in_file(Node& file, uint64_t offset, uint64_t bytes) {
  const int error = co_await write_zeroes_anyhow(file, offset, bytes, {});
  if (error != 0) co_return error;
  {
    const std::lock_guard lock(mutex_);
    ++changes_;
  }
  while (bytes != 0) {
    const size_t piece = std::min<uint64_t>(bytes, kPageBytes - offset % kPageBytes);
    with_page(offset, [&](Page& page, size_t at) { std::memset(page.bytes.data() + at, 0, piece); });
    offset += piece;
    bytes -= piece;
  }
  co_return 0;
}

size_t TablePages::changed() const {
  const std::lock_guard lock(mutex_);
  return changed_;
}

std::vector<TablePages::Change> TablePages::take() {
  std::vector<Change> changes;
  const std::lock_guard lock(mutex_);
  for (Page& page : pages_) {
    for (size_t begin = 0, end; begin < kPageBytes / kSector; begin = end) {
      end = begin + 1;
      if ((page.changed >> begin & 1) == 0) continue;
      while (end < kPageBytes / kSector && (page.changed >> end & 1) != 0) ++end;
      const std::byte* const bytes = page.bytes.data();
      changes.push_back({page.number * kPageBytes + begin * kSector,
                         std::vector<std::byte>(bytes + begin * kSector, bytes + end * kSector)});
    }
    page.taken = std::exchange(page.changed, 0);
  }
  return changes;
}

void TablePages::stored(bool all) {
  const std::lock_guard lock(mutex_);
  for (Page& page : pages_) {
    if (page.taken == 0) continue;
    if (!all) page.changed |= page.taken;
    page.taken = 0;
    if (page.changed == 0) --changed_;
  }
}

}  // namespace ostler::block
