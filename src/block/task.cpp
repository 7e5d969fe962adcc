#include "block/task.h"

#include <array>
#include <new>

namespace ostler::block::detail {
namespace {

// Under AddressSanitizer each frame is memory of its own: one that is used after its end is noticed.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kFindMisuse = true;
#elif defined(__has_feature)
constexpr bool kFindMisuse = __has_feature(address_sanitizer);
#else
constexpr bool kFindMisuse = false;
#endif
constexpr size_t kStep = 128, kClasses = 16;
constexpr size_t kMostKept = kFindMisuse ? 0 : 64;

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
