#include "block/formats/mapped/table_pages.h"

#include <algorithm>
#include <cstring>

namespace ostler::block {

bool TablePages::copy_kept(uint64_t offset, void* to, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(offset / kPageBytes);
  if (found == index_.end()) return false;
  pages_.splice(pages_.begin(), pages_, found->second);
  std::memcpy(to, found->second->bytes.data() + offset % kPageBytes, bytes);
  return true;
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
    if (changes_ != before) continue;
    if (index_.contains(number)) co_return 0;
    if (pages_.size() == kMostPages) {
      index_.erase(pages_.back().number);
      pages_.splice(pages_.begin(), pages_, std::prev(pages_.end()));
    } else {
      pages_.emplace_front();
    }
    pages_.front().number = number;
    std::memcpy(pages_.front().bytes.data(), fresh.data(), kPageBytes);
    index_[number] = pages_.begin();
    co_return 0;
  }
}

Task<int> TablePages::read(Node& file, uint64_t offset, void* to, size_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  while (bytes != 0) {
    const size_t piece = std::min<size_t>(bytes, kPageBytes - offset % kPageBytes);
    while (!copy_kept(offset, target, piece)) {
      const int error = co_await load(file, offset / kPageBytes);
      if (error != 0) co_return error;
    }
    offset += piece;
    target += piece;
    bytes -= piece;
  }
  co_return 0;
}

Task<int> TablePages::write(Node& file, uint64_t offset, const void* from, size_t bytes) {
  const int error = co_await write_bytes(file, offset, from, bytes);
  if (error == 0) {
    update(offset, from, bytes);
  } else {
    clear();  // what the file holds now is not known
  }
  co_return error;
}

void TablePages::update(uint64_t offset, const void* from, size_t bytes) {
  const auto* source = static_cast<const std::byte*>(from);
  const std::lock_guard lock(mutex_);
  ++changes_;
  while (bytes != 0) {
    const size_t piece = std::min<size_t>(bytes, kPageBytes - offset % kPageBytes);
    if (const auto found = index_.find(offset / kPageBytes); found != index_.end())
      std::memcpy(found->second->bytes.data() + offset % kPageBytes, source, piece);
    offset += piece;
    source += piece;
    bytes -= piece;
  }
}

void TablePages::clear() {
  const std::lock_guard lock(mutex_);
  ++changes_;
  index_.clear();
  pages_.clear();
}

}  // namespace ostler::block
