#include "memory/ram_block.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>

namespace ostler::memory {

Result<std::shared_ptr<RamBlock>> RamBlock::create(const RamOptions& options) {
  TRY_ASSIGN(HostMemory memory, HostMemory::create(options));
  std::shared_ptr<RamBlock> block(new RamBlock(options.name, std::move(memory)));
  void* flags = mmap(nullptr, block->size() / kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (flags == MAP_FAILED) return errno_error(fmt::format("memory '{}': page flags", options.name), errno);
  static_assert(sizeof(std::atomic<uint8_t>) == 1 && std::atomic<uint8_t>::is_always_lock_free);
  block->flags_ = static_cast<std::atomic<uint8_t>*>(flags);
  return block;
}

RamBlock::~RamBlock() {
  if (flags_ != nullptr) munmap(flags_, size() / kPageSize);
}

void RamBlock::start_dirty_log() {
  for (uint64_t page = 0; page < size() / kPageSize; ++page) {
    flags_[page].fetch_and(static_cast<uint8_t>(~page_flag::kDirty));
    flags_[page].fetch_or(page_flag::kTracked);
  }
}

void RamBlock::stop_dirty_log() {
  for (uint64_t page = 0; page < size() / kPageSize; ++page)
    flags_[page].fetch_and(static_cast<uint8_t>(~(page_flag::kDirty | page_flag::kTracked)));
}

void RamBlock::collect_dirty(std::vector<uint64_t>& bitmap) {
  const uint64_t pages = size() / kPageSize;
  bitmap.resize((pages + 63) / 64);
  for (uint64_t page = 0; page < pages; ++page) {
    uint8_t old = flags_[page].load(std::memory_order_relaxed);
    if ((old & page_flag::kDirty) == 0) continue;
    // One step, so that a writer that comes in between finds the page either dirty or tracked.
    while (!flags_[page].compare_exchange_weak(
        old, static_cast<uint8_t>((old & ~page_flag::kDirty) | page_flag::kTracked))) {
    }
    bitmap[page / 64] |= uint64_t{1} << (page % 64);
  }
}

}  // namespace ostler::memory
