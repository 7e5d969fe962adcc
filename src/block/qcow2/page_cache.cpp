#include "block/qcow2/page_cache.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace ostler::block::qcow2 {

PageCache::PageCache(std::mutex& mutex, size_t page_bytes, size_t limit)
    : mutex_(mutex), page_bytes_(page_bytes), most_pages_(std::max<size_t>(limit / page_bytes, 16)) {}

Pin PageCache::find_locked(uint64_t offset) {
  const auto found = pages_.find(offset);
  if (found == pages_.end() || !found->second->valid) return Pin();
  Page* const page = found->second.get();
  if (page->place != recent_.begin()) recent_.splice(recent_.begin(), recent_, page->place);
  return Pin(page);
}

void PageCache::make_room_locked() {
  // A few at the old end are enough to look at: pinned ones are few, dirty ones are limited by the owner.
  unsigned looked = 0;
  for (auto at = recent_.end(); pages_.size() >= most_pages_ && at != recent_.begin() && looked < 64;
       ++looked) {
    --at;
    Page* const page = *at;
    if (page->dirty || page->writing || !page->valid || page->pins.load(std::memory_order_acquire) != 0)
      continue;
    at = recent_.erase(at);
    pages_.erase(page->offset);
  }
}

Task<int> PageCache::load(Node& file, uint64_t offset, PageKind kind, Pin& pin) {
  std::unique_lock lock(mutex_);
  for (;;) {
    pin = find_locked(offset);
    if (pin) co_return 0;
    if (!pages_.contains(offset)) break;
    co_await loaded_.wait(lock);  // another coroutine is reading it
  }
  make_room_locked();
  auto fresh = std::make_unique<Page>();
  Page* const page = fresh.get();
  page->offset = offset;
  page->kind = kind;
  page->data = AlignedBuffer(page_bytes_);
  if (!page->data) co_return -ENOMEM;
  recent_.push_front(page);
  page->place = recent_.begin();
  pages_.emplace(offset, std::move(fresh));
  lock.unlock();
  const int error = co_await read_bytes(file, offset, page->data.data(), page_bytes_);
  lock.lock();
  loaded_.wake_all();
  if (error == 0 && !page->stale) {
    page->valid = true;
    pin = Pin(page);
    co_return 0;
  }
  recent_.erase(page->place);
  pages_.erase(offset);
  lock.unlock();
  if (error != 0) co_return error;
  co_return co_await load(file, offset, kind, pin);
}

void PageCache::set_dirty_locked(Page& page) {
  if (std::exchange(page.dirty, true)) return;
  ++dirty_;
}

std::vector<PageCache::Copy> PageCache::begin_write_locked(bool& ok) {
  std::vector<Copy> copies;
  ok = true;
  if (dirty_ == 0) return copies;
  copies.reserve(dirty_);
  for (const auto& [offset, page] : pages_) {
    if (!page->dirty) continue;
    Copy copy{page.get(), offset, page->kind, AlignedBuffer(page_bytes_)};
    if (!copy.data) {
      ok = false;
      copies.clear();
      return copies;
    }
    std::memcpy(copy.data.data(), page->data.data(), page_bytes_);
    copies.push_back(std::move(copy));
  }
  for (const Copy& copy : copies) {
    copy.page->dirty = false;
    copy.page->writing = true;
  }
  dirty_ = 0;
  std::ranges::sort(copies, {}, &Copy::offset);
  return copies;
}

void PageCache::end_write_locked(std::vector<Copy>& copies, bool failed) {
  for (Copy& copy : copies) {
    copy.page->writing = false;
    if (failed) set_dirty_locked(*copy.page);
  }
  copies.clear();
}

void PageCache::drop_locked(uint64_t offset, uint64_t bytes) {
  for (uint64_t at = align_down(offset, page_bytes_); at < offset + bytes; at += page_bytes_) {
    const auto found = pages_.find(at);
    if (found == pages_.end()) continue;
    Page& page = *found->second;
    // What is on its way may be of the cluster's former owner.
    page.stale = !page.valid;
    if (page.stale) continue;
    if (std::exchange(page.dirty, false)) --dirty_;
    if (page.writing || page.pins.load(std::memory_order_acquire) != 0) {
      std::memset(page.data.data(), 0, page_bytes_);  // it cannot go, but must not tell old content
      continue;
    }
    recent_.erase(page.place);
    pages_.erase(found);
  }
}

void PageCache::clear_locked() {
  recent_.clear();
  pages_.clear();
  dirty_ = 0;
}

}  // namespace ostler::block::qcow2
