#include "memory/ram_block.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cerrno>

#include "base/bytes.h"

namespace ostler::memory {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::string amount(uint64_t bytes) {
  if (bytes >= uint64_t{10} << 30) return fmt::format("{} GiB", bytes >> 30);
  return fmt::format("{} MiB", bytes >> 20);
}

// Memory and swap of the host, bytes; the most that a guest could ever be given.
uint64_t host_memory() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) return ~uint64_t{0};
  return (static_cast<uint64_t>(info.totalram) + info.totalswap) * info.mem_unit;
}

}  // namespace

Result<std::shared_ptr<RamBlock>> RamBlock::create(const RamOptions& options) {
  if (options.size == 0 || options.size % kPageSize != 0)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("memory '{}': {} bytes is not a positive multiple of 4096", options.name, options.size));
  if (const uint64_t most = host_memory(); options.size > most)
    return Error(
        ErrorKind::kNoResource,
        fmt::format("memory '{}': {} is more than this host's {} of memory and swap; give the guest less",
                    options.name, amount(options.size), amount(most)));
  const auto refused = [&](const char* step) {
    return errno_error(
        fmt::format("memory '{}': cannot {} {}; give the guest less, or free memory on the host",
                    options.name, step, amount(options.size)),
        errno);
  };
  std::shared_ptr<RamBlock> block(new RamBlock);
  block->name_ = options.name;
  // Room on both sides, so that the block can start where a huge page does, and what runs over either end of
  // it meets nothing.
  block->reserved_ = align_up(options.size, kPageSize) + 2 * kHugePage;
  void* reserved =
      mmap(nullptr, block->reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return refused("find addresses for");
  block->reservation_ = reserved;
  block->size_ = options.size;
  void* host = reinterpret_cast<void*>(align_up(reinterpret_cast<uintptr_t>(reserved) + 1, kHugePage));
  if (mmap(host, options.size, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    return refused("map");
  block->host_ = static_cast<std::byte*>(host);
  // For those two a failure changes nothing that the guest could see. The name is for /proc/pid/maps.
  madvise(host, options.size, MADV_HUGEPAGE);
  prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, host, options.size, options.name.c_str());
  void* flags = mmap(nullptr, options.size / kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (flags == MAP_FAILED) return refused("keep page flags for");
  static_assert(sizeof(std::atomic<uint8_t>) == 1 && std::atomic<uint8_t>::is_always_lock_free);
  block->flags_ = static_cast<std::atomic<uint8_t>*>(flags);
  madvise(host, options.size, MADV_DONTDUMP);  // a core dump of ours is about us; failure changes nothing
  return block;
}

RamBlock::~RamBlock() {
  if (reservation_ != nullptr) munmap(reservation_, reserved_);
  if (flags_ != nullptr) munmap(flags_, size_ / kPageSize);
}

void RamBlock::start_dirty_log() {
  for (uint64_t page = 0; page < size_ / kPageSize; ++page) {
    flags_[page].fetch_and(static_cast<uint8_t>(~page_flag::kDirty));
    flags_[page].fetch_or(page_flag::kTracked);
  }
}

void RamBlock::stop_dirty_log() {
  for (uint64_t page = 0; page < size_ / kPageSize; ++page)
    flags_[page].fetch_and(static_cast<uint8_t>(~(page_flag::kDirty | page_flag::kTracked)));
}

void RamBlock::collect_dirty(std::vector<uint64_t>& bitmap) {
  const uint64_t pages = size_ / kPageSize;
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
