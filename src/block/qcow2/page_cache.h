// Pages of L2 tables and refcount blocks in memory, by their offset in the file.
//
// The owner's mutex guards everything but loading. Dirty pages are written by the owner, in an order that
// survives power cuts (docs/block.md): begin_write() copies them, end_write() tells how that went.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block::qcow2 {

enum class PageKind : uint8_t { kRefcount, kL2 };

struct Page {
  uint64_t offset = 0;
  PageKind kind = PageKind::kL2;
  bool valid = false;  // loaded
  bool stale = false;  // forgotten while it was being loaded
  bool dirty = false;
  bool writing = false;  // a copy is on its way to the file
  std::atomic<uint32_t> pins{0};
  std::list<Page*>::iterator place;
  AlignedBuffer data;
};

// Keeps a page in memory.
class Pin {
 public:
  Pin() = default;
  explicit Pin(Page* page) : page_(page) { page->pins.fetch_add(1, std::memory_order_relaxed); }
  Pin(Pin&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  Pin& operator=(Pin&& other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~Pin() {
    if (page_ != nullptr) page_->pins.fetch_sub(1, std::memory_order_release);
  }
  std::byte* data() const { return page_->data.data(); }
  Page* page() const { return page_; }
  explicit operator bool() const { return page_ != nullptr; }

 private:
  Page* page_ = nullptr;
};

class PageCache {
 public:
  // `limit` in bytes, over which pages that are clean and not in use go.
  PageCache(std::mutex& mutex, size_t page_bytes, size_t limit);

  size_t page_bytes() const { return page_bytes_; }
  // The page, if it is there. With the mutex.
  Pin find_locked(uint64_t offset);
  // Reads it from `file` if it is not there. Without the mutex.
  Task<int> load(Node& file, uint64_t offset, PageKind kind, Pin& pin);
  void set_dirty_locked(Page& page);
  size_t dirty_bytes_locked() const { return dirty_ * page_bytes_; }

  struct Copy {
    Page* page;
    uint64_t offset;
    PageKind kind;
    AlignedBuffer data;
  };
  // Copies of all dirty pages, by offset; they count as clean from here on. Empty and `ok` false: no memory.
  std::vector<Copy> begin_write_locked(bool& ok);
  // The copies with `failed` are dirty again.
  void end_write_locked(std::vector<Copy>& copies, bool failed);
  // Forgets pages of these bytes of the file, whatever they hold: they are free, or new and full of zeros.
  void drop_locked(uint64_t offset, uint64_t bytes);
  // All of them; none is in use.
  void clear_locked();

 private:
  void make_room_locked();
  std::mutex& mutex_;
  const size_t page_bytes_, most_pages_;
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::list<Page*> recent_;  // front: used last
  size_t dirty_ = 0;
  WaitQueue loaded_;
};

}  // namespace ostler::block::qcow2
