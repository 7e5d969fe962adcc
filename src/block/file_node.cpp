#include "block/file_node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/bytes.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
// Buffered writes up to this size that cover whole pages neither read nor, as a rule, wait: cheaper on the
// caller's thread than a wake-up.
constexpr uint64_t kInlineWrite = 256 * 1024;
constexpr uint64_t kPage = 4096;

// Where QEMU puts its image locks: a shared lock at 100 + p for each permission p in use, and at 200 + p for
// each that others must not use. Permissions: 0 consistent read, 1 write, 3 resize.
constexpr off_t kUsedBase = 100, kUnsharedBase = 200;
constexpr int kConsistentRead = 0, kWrite = 1, kResize = 3;

int lock_byte(int fd, off_t at) {
  struct flock lock = {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

// True when another open file holds a lock there.
bool locked_elsewhere(int fd, off_t at) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Result<void> lock_image(int fd, const std::string& path, bool read_only) {
  const std::initializer_list<int> writer = {kConsistentRead, kWrite}, reader = {kConsistentRead};
  const auto& used = read_only ? reader : writer;
  const std::initializer_list<int> unshared = {kWrite, kResize};
  const auto busy = [&] {
    return Error(ErrorKind::kBusy,
                 fmt::format("{} is in use by another program{}; stop it, or use snapshot=on with "
                             "file.locking=off at your own risk",
                             path, read_only ? " that writes to it" : ""));
  };
  for (const int permission : used)
    if (const int error = lock_byte(fd, kUsedBase + permission); error == EAGAIN || error == EACCES)
      return busy();
  for (const int permission : unshared)
    if (const int error = lock_byte(fd, kUnsharedBase + permission); error == EAGAIN || error == EACCES)
      return busy();
  for (const int permission : used)
    if (locked_elsewhere(fd, kUnsharedBase + permission)) return busy();
  for (const int permission : unshared)
    if (locked_elsewhere(fd, kUsedBase + permission)) return busy();
  return {};
}

// Drops `bytes` from the front of `iov`.
void advance(std::vector<iovec>& iov, uint64_t bytes) {
  size_t whole = 0;
  while (whole < iov.size() && bytes >= iov[whole].iov_len) bytes -= iov[whole++].iov_len;
  iov.erase(iov.begin(), iov.begin() + static_cast<ptrdiff_t>(whole));
  if (!iov.empty()) {
    iov[0].iov_base = static_cast<char*>(iov[0].iov_base) + bytes;
    iov[0].iov_len -= bytes;
  }
}

int pieces(const std::vector<iovec>& iov) {
  return static_cast<int>(std::min<size_t>(iov.size(), IOV_MAX));
}

}  // namespace

Result<std::shared_ptr<FileNode>> FileNode::open(WorkerPool& pool, const FileOptions& options) {
  const std::string& path = options.path;
  // O_NONBLOCK so that a FIFO cannot hang us; regular files and disks ignore it.
  Fd fd(::open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) {
    const int error = errno;
    if (error == ENOENT)
      return errno_error(path + ": no such disk image; check the path, or create it first", error);
    if (error == EISDIR) return errno_error(path + " is a directory; name a disk image in it", error);
    if ((error == EACCES || error == EROFS || error == EPERM) && !options.read_only &&
        access(path.c_str(), R_OK) == 0)
      return errno_error(
          path + " cannot be written; use readonly=on, or snapshot=on to keep changes in a temporary file",
          error);
    if (error == EACCES) return errno_error(path + " cannot be opened; check its permissions", error);
    return errno_error(path + " cannot be opened", error);
  }
  struct stat status;
  if (fstat(fd.get(), &status) != 0) return errno_error(path + " cannot be examined", errno);
  uint64_t size = 0;
  if (S_ISDIR(status.st_mode))
    return Error(ErrorKind::kInvalidArgument, path + " is a directory; name a disk image in it", EISDIR);
  if (S_ISREG(status.st_mode)) {
    size = static_cast<uint64_t>(status.st_size);
  } else if (S_ISBLK(status.st_mode)) {
    if (ioctl(fd.get(), BLKGETSIZE64, &size) != 0)
      return errno_error(path + ": its size cannot be read", errno);
  } else {
    return Error(ErrorKind::kInvalidArgument,
                 path + " is neither a file nor a block device; name a disk image");
  }
  if (size == 0)
    return Error(ErrorKind::kInvalidArgument, path + " is empty; a disk needs at least one sector");
  if (options.locking) TRY(lock_image(fd.get(), path, options.read_only));
  return std::make_shared<FileNode>(pool, path, std::move(fd), align_up(size, kSector), options.read_only);
}

int FileNode::read_now(uint64_t offset, std::span<const iovec> iov, bool wait) {
  std::vector<iovec> left(iov.begin(), iov.end());
  uint64_t bytes = total_bytes(left);
  while (bytes != 0) {
    const ssize_t got =
        preadv2(fd_.get(), left.data(), pieces(left), static_cast<off_t>(offset), wait ? 0 : RWF_NOWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      // File systems without RWF_NOWAIT say so; a worker reads then.
      return !wait && (errno == EOPNOTSUPP || errno == EINVAL) ? EAGAIN : errno;
    }
    if (got == 0) {  // past the end of the file: the last, partial sector reads as zeros
      if (!wait && offset < size_ - std::min(size_, kSector)) return EAGAIN;
      for (const iovec& piece : left) std::memset(piece.iov_base, 0, piece.iov_len);
      return 0;
    }
    bytes -= static_cast<uint64_t>(got);
    offset += static_cast<uint64_t>(got);
    advance(left, static_cast<uint64_t>(got));
  }
  return 0;
}

int FileNode::write_now(uint64_t offset, std::span<const iovec> iov, bool wait) {
  std::vector<iovec> left(iov.begin(), iov.end());
  uint64_t bytes = total_bytes(left);
  if (!wait && (bytes > kInlineWrite || (offset | bytes) % kPage != 0)) return EAGAIN;
  while (bytes != 0) {
    const ssize_t put = pwritev(fd_.get(), left.data(), pieces(left), static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (put == 0) return ENOSPC;
    bytes -= static_cast<uint64_t>(put);
    offset += static_cast<uint64_t>(put);
    advance(left, static_cast<uint64_t>(put));
  }
  return 0;
}

int FileNode::flush_now() {
  // After a failed fdatasync the kernel marks the lost pages clean, and the next one would succeed: the
  // promise of this disk stays broken.
  if (const int error = flush_error_.load(); error != 0) return error;
  while (fdatasync(fd_.get()) != 0) {
    if (errno == EINTR) continue;
    int none = 0;
    const int error = errno;
    flush_error_.compare_exchange_strong(none, error);
    return error;
  }
  return 0;
}

int FileNode::discard_now(uint64_t offset, uint64_t length) {
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(length)) == 0)
    return 0;
  // A discard is a hint: where the file system cannot, nothing is lost.
  return errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL ? 0 : errno;
}

int FileNode::write_zeroes_now(uint64_t offset, uint64_t length, bool may_unmap) {
  const int first = may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
  const int second = may_unmap ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
  for (const int mode : {first, second}) {
    if (mode == FALLOC_FL_PUNCH_HOLE && !may_unmap) continue;  // the guest wants its space kept
    if (fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(length)) == 0)
      return 0;
  }
  static const std::vector<std::byte> zeroes(1 << 20);
  while (length != 0) {
    const uint64_t piece = std::min<uint64_t>(length, zeroes.size());
    const iovec iov{const_cast<std::byte*>(zeroes.data()), piece};  // pwritev only reads it
    if (const int error = write_now(offset, std::span(&iov, 1), true); error != 0) return error;
    offset += piece;
    length -= piece;
  }
  return 0;
}

}  // namespace ostler::block
