#include "memory/host_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <utility>

#include "base/bytes.h"
#include "base/log.h"
#include "memory/address.h"

namespace ostler::memory {
namespace {

constexpr uint64_t kTransparentHugePage = uint64_t{2} << 20;
// As many as the kernel's largest configuration has.
constexpr unsigned kMostNodes = 1024;

std::string amount(uint64_t bytes) {
  if (bytes >= uint64_t{10} << 30) return fmt::format("{} GiB", bytes >> 30);
  if (bytes >= 10u << 20) return fmt::format("{} MiB", bytes >> 20);
  return fmt::format("{} KiB", bytes >> 10);
}

// Memory and swap of the host, bytes; the most that a guest could ever be given.
uint64_t host_memory() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) return ~uint64_t{0};
  return (static_cast<uint64_t>(info.totalram) + info.totalswap) * info.mem_unit;
}

std::string huge_page_cure(uint64_t bytes, uint64_t page) {
  return fmt::format("reserve them with 'echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages'",
                     (bytes + page - 1) / page, page >> 10);
}

Error invalid(const RamOptions& options, const std::string& text) {
  return Error(ErrorKind::kInvalidArgument, fmt::format("memory '{}': {}", options.name, text));
}

Result<Fd> open_file(const RamOptions& options) {
  const auto failed = [&](const char* step) {
    return errno_error(fmt::format("memory '{}': cannot {} '{}'", options.name, step, options.path), errno);
  };
  struct stat info = {};
  if (stat(options.path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    std::string path = options.path + "/ostler-memory-XXXXXX";
    Fd fd(mkostemp(path.data(), O_CLOEXEC));
    if (!fd) return failed("make a file in");
    unlink(path.c_str());
    return fd;
  }
  Fd fd(open(options.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return failed("open");
  return fd;
}

// A file system that is full is SIGBUS for whoever touches the page that has no room; a guest that never uses
// all of its memory may live there nevertheless. Huge pages are reserved when they are mapped. A private
// mapping keeps what is written to itself, but tmpfs gives the file a page even for what is only read of it.
void warn_of_little_room(const RamOptions& options, int fd, const struct statfs& kind) {
  if (kind.f_type == HUGETLBFS_MAGIC || (!options.share && kind.f_type != TMPFS_MAGIC) || kind.f_blocks == 0)
    return;
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return;
  constexpr uint64_t kStatBlock = 512;
  const uint64_t there = static_cast<uint64_t>(info.st_blocks) * kStatBlock;
  const uint64_t free = static_cast<uint64_t>(kind.f_bavail) * static_cast<uint64_t>(kind.f_bsize);
  if (options.size <= there || options.size - there <= free) return;
  log::warning(fmt::format(
      "memory '{}': the file system of '{}' has room for {} of the {} that the guest may use, and "
      "ends it when it is full; make room there, or name another folder",
      options.name, options.path, amount(there + free), amount(options.size)));
}

}  // namespace

Result<void> HostMemory::open_object(const RamOptions& options) {
  page_size_ = kPageSize;
  if (options.backing == Backing::kAnonymous) return {};
  uint64_t present = 0;
  if (options.backing == Backing::kMemfd) {
    unsigned flags = MFD_CLOEXEC | (options.seal ? MFD_ALLOW_SEALING : 0u);
    if (options.huge) {
      flags |= MFD_HUGETLB;
      if (options.huge_size != 0)
        flags |= static_cast<unsigned>(std::countr_zero(options.huge_size)) << MFD_HUGE_SHIFT;
    }
    fd_ = Fd(memfd_create(("ostler-ram-" + options.name).c_str(), flags));
    if (!fd_) {
      const std::string pages =
          options.huge_size != 0 ? "huge pages of " + amount(options.huge_size) : "huge pages";
      return errno_error(fmt::format("memory '{}': this host has no {}", options.name,
                                     options.huge ? pages : std::string("memory objects")),
                         errno);
    }
  } else {
    TRY_ASSIGN(fd_, open_file(options));
    struct stat info = {};
    if (fstat(fd_.get(), &info) != 0)
      return errno_error(fmt::format("memory '{}': '{}'", options.name, options.path), errno);
    if (S_ISREG(info.st_mode)) present = static_cast<uint64_t>(info.st_size);
  }
  struct statfs kind = {};
  if (fstatfs(fd_.get(), &kind) == 0 && kind.f_type == HUGETLBFS_MAGIC)
    page_size_ = static_cast<uint64_t>(kind.f_bsize);
  file_offset_ = options.offset;
  if (file_offset_ % page_size_ != 0)
    return invalid(options, fmt::format("offset {} is not a multiple of its pages of {}", file_offset_,
                                        amount(page_size_)));
  if (options.size % page_size_ != 0)
    return invalid(options, fmt::format("{} is not a multiple of its pages of {}", amount(options.size),
                                        amount(page_size_)));
  uint64_t wanted = 0;
  if (__builtin_add_overflow(file_offset_, options.size, &wanted) || wanted > INT64_MAX)
    return invalid(options, fmt::format("offset {} is beyond the end of any file", file_offset_));
  if (options.backing == Backing::kFile) warn_of_little_room(options, fd_.get(), kind);
  if (present == 0 && ftruncate(fd_.get(), static_cast<off_t>(wanted)) != 0)
    return errno_error(fmt::format("memory '{}': cannot make room for {}", options.name, amount(wanted)),
                       errno);
  if (present != 0 && present < wanted)
    return invalid(options,
                   fmt::format("'{}' has {} bytes and {} are wanted; give a file of that size, or none",
                               options.path, present, wanted));
  if (options.backing == Backing::kMemfd && options.seal &&
      fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    return errno_error(fmt::format("memory '{}': sealing", options.name), errno);
  return {};
}

Result<void> HostMemory::map(const RamOptions& options) {
  const auto refused = [&](const char* step) {
    const int error = errno;
    const bool huge = page_size_ != kPageSize;
    return errno_error(fmt::format("memory '{}': cannot {} {}; {}", options.name, step, amount(size_),
                                   huge ? huge_page_cure(size_, page_size_)
                                        : "give the guest less, or free memory on the host"),
                       error);
  };
  // Room on both sides, so that the block can start where a huge page does, and what runs over either end of
  // it meets nothing.
  const uint64_t align = std::max({kTransparentHugePage, page_size_, options.align});
  reserved_ = size_ + 2 * align;
  void* reserved = mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return refused("find addresses for");
  reservation_ = reserved;
  void* host = reinterpret_cast<void*>(align_up(reinterpret_cast<uintptr_t>(reserved) + 1, align));
  int flags = MAP_FIXED | (options.share ? MAP_SHARED : MAP_PRIVATE);
  if (!fd_) flags |= MAP_ANONYMOUS;
  // Huge pages that are not reserved would be missed only when the guest touches them.
  if (!options.reserve && page_size_ == kPageSize) flags |= MAP_NORESERVE;
  if (mmap(host, size_, PROT_READ | PROT_WRITE, flags, fd_.get(), static_cast<off_t>(file_offset_)) ==
      MAP_FAILED)
    return refused("map");
  data_ = static_cast<std::byte*>(host);
  shared_ = options.share;
  // For these a failure changes nothing that the guest could see. The name is for /proc/pid/maps.
  madvise(host, size_, MADV_HUGEPAGE);
  const std::string name = "ostler-ram-" + options.name;
  if (!fd_) prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, host, size_, name.c_str());
  if (!options.dump) madvise(host, size_, MADV_DONTDUMP);
  if (options.merge) madvise(host, size_, MADV_MERGEABLE);
  return place(options);
}

Result<void> HostMemory::place(const RamOptions& options) const {
  if (options.policy == HostPolicy::kDefault) {
    if (!options.host_nodes.empty()) return invalid(options, "host-nodes needs a policy");
    return {};
  }
  if (options.host_nodes.empty()) return invalid(options, "the policy needs host-nodes");
  constexpr unsigned kBits = sizeof(unsigned long) * CHAR_BIT;
  unsigned long nodes[kMostNodes / kBits] = {};
  for (const unsigned node : options.host_nodes) {
    if (node >= kMostNodes) return invalid(options, fmt::format("this host has no NUMA node {}", node));
    nodes[node / kBits] |= 1ul << (node % kBits);
  }
  const int mode = options.policy == HostPolicy::kPreferred ? MPOL_PREFERRED
                   : options.policy == HostPolicy::kBind    ? MPOL_BIND
                                                            : MPOL_INTERLEAVE;
  // The kernel takes one bit less than it is told of.
  if (syscall(SYS_mbind, data_, size_, mode, nodes, kMostNodes + 1, MPOL_MF_STRICT | MPOL_MF_MOVE) != 0)
    return errno_error(
        fmt::format(
            "memory '{}': this host does not place memory on the NUMA nodes {}; 'numactl -H' lists them",
            options.name, fmt::join(options.host_nodes, ", ")),
        errno);
  return {};
}

Result<HostMemory> HostMemory::create(const RamOptions& options) {
  if (options.size == 0 || options.size % kPageSize != 0)
    return invalid(options, fmt::format("{} bytes is not a positive multiple of 4096", options.size));
  const uint64_t most = host_memory();
  if (options.backing != Backing::kFile && !options.overcommit && options.size > most)
    return Error(
        ErrorKind::kNoResource,
        fmt::format("memory '{}': {} is more than this host's {} of memory and swap; give the guest less, or "
                    "a memory backend with reserve=off if it never uses all",
                    options.name, amount(options.size), amount(most)));
  if (options.align != 0 && (!std::has_single_bit(options.align) || options.align > uint64_t{1} << 40))
    return invalid(options, fmt::format("align {} is not a power of two up to 1T", options.align));
  if (options.huge_size != 0 && (!std::has_single_bit(options.huge_size) || options.huge_size < kPageSize))
    return invalid(options, fmt::format("huge pages of {} bytes: give a power of two", options.huge_size));
  HostMemory memory;
  memory.size_ = options.size;
  TRY(memory.open_object(options));
  TRY(memory.map(options));
  return memory;
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : fd_(std::move(other.fd_)),
      file_offset_(other.file_offset_),
      reservation_(std::exchange(other.reservation_, nullptr)),
      reserved_(other.reserved_),
      data_(other.data_),
      size_(other.size_),
      page_size_(other.page_size_),
      shared_(other.shared_) {}

HostMemory::~HostMemory() {
  if (reservation_ != nullptr) munmap(reservation_, reserved_);
}

bool HostMemory::discard(uint64_t offset, uint64_t length) const {
  if (offset >= size_) return false;
  const uint64_t end = align_down(std::min(length, size_ - offset) + offset, page_size_);
  const uint64_t begin = align_up(offset, page_size_);
  if (begin >= end) return true;
  const int advice = shared_ ? MADV_REMOVE : MADV_DONTNEED;
  return madvise(data_ + begin, end - begin, advice) == 0;
}

}  // namespace ostler::memory
