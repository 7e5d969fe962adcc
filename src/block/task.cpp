#include "block/task.h"

#include <array>
#include <new>

namespace ostler::block::detail {
namespace {

constexpr size_t kStep = 128, kClasses = 16, kMostKept = 64;

// Freed frames of this thread, by size class. The destructor gives them back when the thread ends.
struct FrameCache {
  struct Frame {
    Frame* next;
  };
  struct List {
    Frame* first = nullptr;
    size_t length = 0;
  };
  std::array<List, kClasses> lists{};

  ~FrameCache() {
    for (List& list : lists)
      while (Frame* frame = list.first) {
        list.first = frame->next;
        ::operator delete(frame);
      }
    gone = true;
  }
  static thread_local bool gone;  // frames freed by later destructors of the thread
};
thread_local bool FrameCache::gone = false;
thread_local FrameCache cache;

}  // namespace

void* allocate_frame(size_t bytes) {
  const size_t index = (bytes - 1) / kStep;
  if (index >= kClasses || FrameCache::gone) return ::operator new(bytes);
  auto& list = cache.lists[index];
  if (list.first == nullptr) return ::operator new((index + 1) * kStep);
  FrameCache::Frame* frame = list.first;
  list.first = frame->next;
  --list.length;
  return frame;
}

void free_frame(void* frame, size_t bytes) noexcept {
  const size_t index = (bytes - 1) / kStep;
  if (index >= kClasses || FrameCache::gone || cache.lists[index].length == kMostKept)
    return ::operator delete(frame);
  auto& list = cache.lists[index];
  list.first = new (frame) FrameCache::Frame{list.first};
  ++list.length;
}

}  // namespace ostler::block::detail
