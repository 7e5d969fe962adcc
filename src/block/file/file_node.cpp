#include "block/file/file_node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/file/host_file.h"
#include "block/file/lock.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
// Buffered writes up to this size only copy to the page cache, as a rule: cheaper at once than by a kernel
// worker. A copy of an image has more to read meanwhile; a guest's processor that tries waits for it anyway.
constexpr uint64_t kInlineWrite = 64 * 1024, kTriedWrite = 256 * 1024;
constexpr uint64_t kPage = 4096;
constexpr size_t kBounce = 1 << 20;
// Buffered writes of that size and more get their blocks before their bytes; see FileNode::reserve().
constexpr uint64_t kReservedWrite = 256 * 1024;

// Iterates over what a short transfer has left of some buffers.
class Progress {
 public:
  explicit Progress(Buffers buffers) : whole_(buffers), left_(total_bytes(buffers)) {}
  uint64_t left() const { return left_; }
  uint64_t done() const { return done_; }
  // The pieces left, at most IOV_MAX; valid until the next call.
  Buffers next() {
    if (done_ == 0) return whole_.first(std::min<size_t>(whole_.size(), IOV_MAX));
    rest_.emplace(whole_, done_, left_);
    const Buffers pieces = *rest_;
    return pieces.first(std::min<size_t>(pieces.size(), IOV_MAX));
  }
  void advance(uint64_t bytes) {
    done_ += bytes;
    left_ -= bytes;
  }

 private:
  const Buffers whole_;
  uint64_t left_, done_ = 0;
  std::optional<Slice> rest_;
};

int as_count(Buffers buffers) {
  return static_cast<int>(std::min<size_t>(buffers.size(), IOV_MAX));
}

}  // namespace

FileNode::FileNode(FileOptions options, Fd fd, uint64_t size, bool is_device)
    : Node(is_device ? "host_device" : "file"),
      options_(std::move(options)),
      fd_(std::move(fd)),
      size_(size),
      is_device_(is_device),
      room_(size) {
  if (options_.direct) direct_alignment_ = direct_io_alignment(fd_.get());
  struct statfs system;
  reserving_ = !is_device_ && fstatfs(fd_.get(), &system) == 0 && system.f_type == EXT4_SUPER_MAGIC;
}

FileNode::~FileNode() {
  if (fd_) unlock_image(fd_.get());
}

Result<std::shared_ptr<FileNode>> FileNode::open(const FileOptions& options) {
  TRY_ASSIGN(OpenedFile file, open_host_file(options));
  return std::make_shared<FileNode>(options, std::move(file.fd), file.size, file.is_device);
}

nlohmann::json FileNode::options() const {
  return {{"driver", driver()}, {"filename", options_.path}};
}

int64_t FileNode::allocated_bytes() const {
  struct stat status;
  if (fstat(fd_.get(), &status) != 0) return -errno;
  return status.st_blocks * int64_t{512};
}

void FileNode::grown_to(uint64_t end) {
  uint64_t before = size_.load(std::memory_order_relaxed);
  while (before < end && !size_.compare_exchange_weak(before, end)) {
  }
}

// Before zeros and direct writes that reach beyond the end. Requests at the end are under way side by side,
// so none may set a length by what it knows alone: it could cut off what another has just written. (Direct
// writes that make a file longer would wait for each other in the kernel.)
int FileNode::make_room(uint64_t end) {
  if (is_device_ || end <= room_.load(std::memory_order_relaxed)) return 0;
  const std::lock_guard lock(growing_);
  if (end <= room_) return 0;
  struct stat status;
  if (fstat(fd_.get(), &status) != 0) return -errno;
  const auto now = static_cast<uint64_t>(status.st_size);
  if (now < end) {
    // What buffered writes add meanwhile stays if the length is moved by a write too.
    const std::byte zero{};
    const iovec last = {const_cast<std::byte*>(&zero), 1};
    const int error = extending_ != 0 ? write_now(end - 1, Buffers(&last, 1))
                      : ftruncate(fd_.get(), static_cast<off_t>(end)) != 0 ? -errno
                                                                           : 0;
    if (error != 0) return error;
  }
  room_ = std::max(now, end);
  return 0;
}

bool FileNode::begin_extending(uint64_t end) {
  if (is_device_ || end <= room_.load(std::memory_order_relaxed)) return false;
  const std::lock_guard lock(growing_);
  ++extending_;
  return true;
}

void FileNode::end_extending(uint64_t end, int error) {
  const std::lock_guard lock(growing_);
  --extending_;
  if (error == 0 && end > room_) room_ = end;
}

int FileNode::cut_to(uint64_t size) {
  const std::lock_guard lock(growing_);
  if (ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return -errno;
  room_ = size_ = size;
  return 0;
}

bool FileNode::suits_direct(uint64_t offset, Buffers buffers) const {
  if (direct_alignment_ == 1) return true;
  const uint64_t mask = direct_alignment_ - 1;
  if ((offset & mask) != 0) return false;
  return std::ranges::all_of(buffers, [&](const iovec& piece) {
    return ((reinterpret_cast<uintptr_t>(piece.iov_base) | piece.iov_len) & mask) == 0;
  });
}

IoRequest FileNode::by_choice(IoRequest request) const {
  request.on_worker = options_.aio == Aio::kThreads;
  return request;
}

Task<int> FileNode::read(uint64_t offset, Buffers to) {
  return suits_direct(offset, to) ? read_pieces(offset, to) : read_bounced(offset, to);
}

Task<int> FileNode::write(uint64_t offset, Buffers from) {
  if (!suits_direct(offset, from)) co_return co_await write_bounced(offset, from);
  const uint64_t end = offset + total_bytes(from);
  if (direct_alignment_ == 1) co_return co_await write_buffered(offset, from, end);
  int error = make_room(end);
  if (error == 0) error = co_await write_pieces(offset, from);
  if (error == 0) grown_to(end);
  co_return error;
}

// The kernel makes the file longer as it writes.
Task<int> FileNode::write_buffered(uint64_t offset, Buffers from, uint64_t end) {
  const bool extending = begin_extending(end);
  int error = 0;
  // Beside a write of the ring, one at once would wait for it: the kernel lets one writer in.
  if (end - offset <= kInlineWrite && writing_.load(std::memory_order_relaxed) == 0) {
    error = write_now(offset, from);
  } else {
    ++writing_;
    if (end - offset >= kReservedWrite && worth_reserving(end))
      error = co_await write_reserved(offset, from);
    else
      error = co_await write_pieces(offset, from);
    --writing_;
  }
  if (extending) end_extending(end, error);
  if (error == 0) grown_to(end);
  co_return error;
}

// Whether a write up to `end` may meet holes, on a file system where filling them at once is cheaper.
bool FileNode::worth_reserving(uint64_t end) const {
  if (!reserving_.load(std::memory_order_relaxed)) return false;
  struct stat status;
  if (fstat(fd_.get(), &status) != 0) return false;
  const auto size = static_cast<uint64_t>(status.st_size);
  return end > size || static_cast<uint64_t>(status.st_blocks) * kSector < size;
}

// Gives a long write its blocks in one go, then its bytes. ext4 looks up and reserves each block of a hole by
// itself, with the file locked; in blocks that it has allocated it does not. One
// write at a time: more of them would turn in circles for the kernel's lock of the file.
Task<int> FileNode::write_reserved(uint64_t offset, Buffers from) {
  int error = 0;
  co_await IoContext::current()->offload([&] {
    const std::lock_guard lock(reserved_writes_);
    // Whatever else is in the way, the write will tell.
    if (fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(total_bytes(from))) != 0 &&
        (errno == EOPNOTSUPP || errno == ENOSYS))
      reserving_ = false;
    error = write_now(offset, from);
  });
  co_return error;
}

Task<int> FileNode::read_pieces(uint64_t offset, Buffers to) {
  Progress progress(to);
  while (progress.left() != 0) {
    const int got = co_await by_choice(readv(fd_.get(), progress.next(), offset + progress.done()));
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got < 0) co_return got;
    if (got == 0) {  // past the end
      fill_zeroes(to, progress.done());
      co_return 0;
    }
    progress.advance(static_cast<uint64_t>(got));
    // O_DIRECT stops at the end of a file that is not a multiple of the alignment.
    if (direct_alignment_ != 1 && progress.done() % direct_alignment_ != 0) {
      fill_zeroes(to, progress.done());
      co_return 0;
    }
  }
  co_return 0;
}

int FileNode::write_now(uint64_t offset, Buffers from) {
  Progress progress(from);
  while (progress.left() != 0) {
    const Buffers pieces = progress.next();
    const ssize_t put =
        pwritev(fd_.get(), pieces.data(), as_count(pieces), static_cast<off_t>(offset + progress.done()));
    if (put < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    if (put == 0) return -ENOSPC;
    progress.advance(static_cast<uint64_t>(put));
  }
  return 0;
}

Task<int> FileNode::write_pieces(uint64_t offset, Buffers from) {
  Progress progress(from);
  while (progress.left() != 0) {
    const int put = co_await by_choice(writev(fd_.get(), progress.next(), offset + progress.done()));
    if (put == -EINTR || put == -EAGAIN) continue;
    if (put < 0) co_return put;
    if (put == 0) co_return -ENOSPC;
    progress.advance(static_cast<uint64_t>(put));
  }
  co_return 0;
}

Task<int> FileNode::read_bounced(uint64_t offset, Buffers to) {
  const uint64_t bytes = total_bytes(to);
  const uint64_t begin = align_down(offset, direct_alignment_);
  const uint64_t end = align_up(offset + bytes, direct_alignment_);
  const AlignedBuffer bounce(std::min<uint64_t>(end - begin, kBounce));
  if (!bounce) co_return -ENOMEM;
  uint64_t done = 0;
  for (uint64_t at = begin; at < end; at += bounce.size()) {
    const iovec whole{bounce.data(), std::min<uint64_t>(bounce.size(), end - at)};
    const int error = co_await read_pieces(at, Buffers(&whole, 1));
    if (error != 0) co_return error;
    const uint64_t from = std::max(at, offset), until = std::min(at + whole.iov_len, offset + bytes);
    const Slice part(to, done, until - from);
    copy_to(part, bounce.data() + (from - at));
    done += until - from;
  }
  co_return 0;
}

Task<int> FileNode::write_bounced(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  const uint64_t begin = align_down(offset, direct_alignment_);
  const uint64_t end = align_up(offset + bytes, direct_alignment_);
  const AlignedBuffer bounce(std::min<uint64_t>(end - begin, kBounce));
  if (!bounce) co_return -ENOMEM;
  // Whole blocks: the file may become longer than size() says, until close().
  if (const int error = make_room(end); error != 0) co_return error;
  // Partial blocks are read, changed and written by one request at a time.
  Mutex::Guard alone;
  if (begin != offset || end != offset + bytes) alone = co_await unaligned_.lock();
  uint64_t done = 0;
  for (uint64_t at = begin; at < end; at += bounce.size()) {
    const iovec whole{bounce.data(), std::min<uint64_t>(bounce.size(), end - at)};
    const uint64_t first = std::max(at, offset), until = std::min(at + whole.iov_len, offset + bytes);
    if (first != at || until != at + whole.iov_len) {
      const int error = co_await read_pieces(at, Buffers(&whole, 1));
      if (error != 0) co_return error;
    }
    const Slice part(from, done, until - first);
    copy_from(part, bounce.data() + (first - at));
    done += until - first;
    const int error = co_await write_pieces(at, Buffers(&whole, 1));
    if (error != 0) co_return error;
  }
  grown_to(offset + bytes);
  co_return 0;
}

Task<int> FileNode::flush() {
  if (options_.no_flush || options_.read_only) co_return 0;
  // After a failed fdatasync the kernel marks the lost pages clean, and the next one would succeed: the
  // promise of this disk stays broken.
  if (const int error = flush_error_.load(); error != 0) co_return error;
  for (;;) {
    const int error = co_await by_choice(datasync(fd_.get()));
    if (error == -EINTR) continue;
    int none = 0;
    if (error != 0) flush_error_.compare_exchange_strong(none, error);
    co_return error;
  }
}

Task<int> FileNode::discard(uint64_t offset, uint64_t bytes) {
  if (!options_.unmap || no_punch_ || bytes == 0) co_return 0;
  const int error =
      co_await by_choice(allocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes));
  // A discard is a hint: where the file system cannot, nothing is lost.
  if (error == -EOPNOTSUPP || error == -ENOSYS) no_punch_ = true;
  co_return error == -EOPNOTSUPP || error == -ENOSYS || error == -EINVAL ? 0 : error;
}

Task<int> FileNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (bytes == 0) co_return 0;
  // Zeros in the sector that holds the file's last byte change nothing; beyond it, the file grows.
  const uint64_t end = offset + bytes;
  const bool grows = !is_device_ && end > align_up(size(), kSector);
  const bool may_unmap = flags.may_unmap && options_.unmap;
  const int modes[] = {may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE,
                       may_unmap ? FALLOC_FL_ZERO_RANGE : 0};
  bool zeroed = false;
  for (const int mode : modes) {
    std::atomic<bool>& unsupported = mode == FALLOC_FL_PUNCH_HOLE ? no_punch_ : no_zero_range_;
    if (mode == 0 || unsupported) continue;
    const int error = co_await by_choice(allocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, offset, bytes));
    if (error == 0) {
      zeroed = true;
      break;
    }
    if (error == -EOPNOTSUPP || error == -ENOSYS) unsupported = true;
    if (error == -ENOSPC || error == -EIO) co_return error;
  }
  if (!zeroed) {
    if (flags.no_fallback) co_return -ENOTSUP;
    co_return co_await fill_with_zeroes(offset, bytes);
  }
  if (grows) {
    // Only now: where there is no space, the file stays as long as it was.
    if (const int error = make_room(end); error != 0) co_return error;
    grown_to(end);
  }
  co_return 0;
}

Task<int> FileNode::fill_with_zeroes(uint64_t offset, uint64_t bytes) {
  const AlignedBuffer zeroes(std::min<uint64_t>(align_up(bytes, kPage), kBounce));
  if (!zeroes) co_return -ENOMEM;
  std::memset(zeroes.data(), 0, zeroes.size());
  while (bytes != 0) {
    const iovec piece{zeroes.data(), std::min<uint64_t>(bytes, zeroes.size())};
    const int error = co_await write(offset, Buffers(&piece, 1));
    if (error != 0) co_return error;
    offset += piece.iov_len;
    bytes -= piece.iov_len;
  }
  co_return 0;
}

Task<int> FileNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) {
  status = {
      .bytes = bytes, .data = true, .allocated = true, .offset_valid = true, .offset = offset, .file = this};
  const uint64_t end = size();
  if (offset >= end) {
    status.data = false;
    status.zero = true;
    co_return 0;
  }
  if (detail == StatusDetail::kQuick) co_return 0;
  const auto at = static_cast<off_t>(offset);
  const off_t data = lseek(fd_.get(), at, SEEK_DATA);
  if (data < 0) {
    if (errno != ENXIO) co_return 0;  // not told: all of it is data
    status.data = false;              // a hole up to the end
    status.zero = true;
  } else if (data > at) {
    status.bytes = std::min<uint64_t>(bytes, static_cast<uint64_t>(data) - offset);
    status.data = false;
    status.zero = true;
  } else {
    const off_t hole = lseek(fd_.get(), at, SEEK_HOLE);
    if (hole > at) {
      uint64_t run = static_cast<uint64_t>(hole) - offset;
      // The end of the file counts as a hole; the disk's last sector is data still.
      if (static_cast<uint64_t>(hole) >= end) run = align_up(static_cast<uint64_t>(hole), kSector) - offset;
      status.bytes = std::min(bytes, run);
    }
  }
  co_return 0;
}

Task<Result<void>> FileNode::truncate(uint64_t size, Preallocation preallocation) {
  const uint64_t before = this->size();
  if (is_device_) {
    if (size <= before) co_return Result<void>();
    co_return Error(
        ErrorKind::kUnsupported,
        fmt::format("{} is a device of {} bytes; it cannot be made larger", options_.path, before));
  }
  if (size > before && preallocation == Preallocation::kFalloc) {
    const int error = co_await by_choice(allocate(fd_.get(), 0, before, size - before));
    if (error != 0 && error != -EOPNOTSUPP)
      co_return errno_error(fmt::format("{}: {} bytes cannot be reserved", options_.path, size - before),
                            -error);
  }
  if (const int error = size >= before ? make_room(size) : cut_to(size); error != 0)
    co_return errno_error(fmt::format("{} cannot be given a size of {} bytes", options_.path, size), -error);
  grown_to(size);
  if (size > before && preallocation == Preallocation::kFull) {
    int error = co_await fill_with_zeroes(before, size - before);
    if (error == 0) error = co_await flush();
    if (error != 0) co_return errno_error(fmt::format("{}: zeros cannot be written", options_.path), -error);
  }
  resized();
  co_return Result<void>();
}

Task<Result<void>> FileNode::reopen(bool writable) {
  if (writable == !options_.read_only) co_return Result<void>();
  FileOptions next = options_;
  next.read_only = !writable;
  // Its own lock would be in the way: the new descriptor is locked once the old one is closed.
  next.locking = false;
  auto file = open_host_file(next);
  if (!file) co_return std::move(file).error();
  next.locking = options_.locking;
  Fd old = std::move(fd_);
  if (options_.locking) unlock_image(old.get());
  old.reset();
  fd_ = std::move(file->fd);
  options_ = next;
  if (options_.locking) co_return lock_host_file(fd_.get(), options_);
  co_return Result<void>();
}

int FileNode::try_read(uint64_t offset, Buffers to) {
  if (direct_alignment_ != 1 || no_nowait_) return -EAGAIN;
  Progress progress(to);
  while (progress.left() != 0) {
    const Buffers pieces = progress.next();
    const ssize_t got = preadv2(fd_.get(), pieces.data(), as_count(pieces),
                                static_cast<off_t>(offset + progress.done()), RWF_NOWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EOPNOTSUPP || errno == EINVAL) no_nowait_ = true;
      return errno == EOPNOTSUPP || errno == EINVAL ? -EAGAIN : -errno;
    }
    if (got == 0) {  // past the end of the file: the last, partial sector reads as zeros
      const uint64_t end = size();
      if (offset + progress.done() < end - std::min(end, kSector)) return -EAGAIN;
      fill_zeroes(to, progress.done());
      return 0;
    }
    progress.advance(static_cast<uint64_t>(got));
  }
  return 0;
}

int FileNode::try_write(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  // Writes that cover whole pages neither read nor, as a rule, wait.
  if (direct_alignment_ != 1 || bytes > kTriedWrite || (offset | bytes) % kPage != 0 ||
      writing_.load(std::memory_order_relaxed) != 0)
    return -EAGAIN;
  const bool extending = begin_extending(offset + bytes);
  const int error = write_now(offset, from);
  if (extending) end_extending(offset + bytes, error);
  if (error == 0) grown_to(offset + bytes);
  return error;
}

Task<Result<void>> FileNode::close() {
  struct stat status;
  if (direct_alignment_ != 1 && !is_device_ && !options_.read_only && fstat(fd_.get(), &status) == 0 &&
      static_cast<uint64_t>(status.st_size) > size() && ftruncate(fd_.get(), static_cast<off_t>(size())) != 0)
    co_return errno_error(options_.path + " cannot be given its size", errno);
  co_return Result<void>();
}

}  // namespace ostler::block
