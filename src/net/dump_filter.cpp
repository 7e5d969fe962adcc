#include "net/dump_filter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace ostler::net {
namespace {

// Both in the byte order of the writer; the magic number tells which.
struct FileHeader {
  uint32_t magic = 0xa1b2c3d4;  // times in microseconds
  uint16_t major = 2, minor = 4;
  uint32_t reserved1 = 0, reserved2 = 0;
  uint32_t snap_length;
  uint32_t link_type = 1;  // LINKTYPE_ETHERNET
};
static_assert(sizeof(FileHeader) == 24);

struct PacketHeader {
  uint32_t seconds, microseconds;
  uint32_t captured_length, length;
};
static_assert(sizeof(PacketHeader) == 16);

}  // namespace

PcapFile::PcapFile(std::string path, Fd fd, uint32_t max_length)
    : path_(std::move(path)), max_length_(max_length), fd_(std::move(fd)) {}

PcapFile::PcapFile(PcapFile&& other) noexcept
    : path_(std::move(other.path_)),
      max_length_(other.max_length_),
      fd_(std::move(other.fd_)),
      size_(other.size_) {}

Result<PcapFile> PcapFile::create(const std::string& path, uint32_t max_length) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return errno_error(fmt::format("file: cannot write a capture to '{}'", path), errno);
  const FileHeader header = {.snap_length = max_length};
  if (::write(fd.get(), &header, sizeof header) != sizeof header)
    return errno_error(fmt::format("file: cannot write a capture to '{}'", path), errno);
  PcapFile file(path, std::move(fd), max_length);
  file.size_ = sizeof header;
  return file;
}

void PcapFile::write(std::span<const std::byte> frame) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const size_t kept = std::min<size_t>(frame.size(), max_length_);
  PacketHeader header = {.seconds = static_cast<uint32_t>(now.tv_sec),
                         .microseconds = static_cast<uint32_t>(now.tv_nsec / 1000),
                         .captured_length = static_cast<uint32_t>(kept),
                         .length = static_cast<uint32_t>(frame.size())};
  const iovec pieces[] = {{&header, sizeof header}, {const_cast<std::byte*>(frame.data()), kept}};
  const std::lock_guard lock(mutex_);
  if (!fd_) return;
  const ssize_t written = ::writev(fd_.get(), pieces, 2);
  if (written == static_cast<ssize_t>(sizeof header + kept)) {
    size_ += sizeof header + kept;
    return;
  }
  log::warning(fmt::format("the capture '{}' ends here, as it cannot be written: {}", path_,
                           written < 0 ? std::strerror(errno) : "the disk is full"));
  // Half a record would spoil the file for its readers; a pipe cannot be cut, and need not be.
  static_cast<void>(::ftruncate(fd_.get(), static_cast<off_t>(size_)) == 0);
  fd_.reset();
}

bool DumpFilter::send(const Frame& frame, unsigned queue) {
  if (!Filter::send(frame, queue)) return false;
  if (direction_ != FilterDirection::kToGuest) file_.write(frame.bytes);
  return true;
}

bool DumpFilter::receive(const Frame& frame, unsigned queue) {
  if (!Filter::receive(frame, queue)) return false;
  if (direction_ != FilterDirection::kFromGuest) file_.write(frame.bytes);
  return true;
}

}  // namespace ostler::net
