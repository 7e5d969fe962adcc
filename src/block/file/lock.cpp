#include "block/file/lock.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "block/file/cures.h"

namespace ostler::block {
namespace {

constexpr off_t kUsedBase = 100, kUnsharedBase = 200;
constexpr int kPermissionCount = 4;

struct flock lock_at(short type, off_t at) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

int set_lock(int fd, short type, off_t at) {
  struct flock lock = lock_at(type, at);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

// True when another open file holds a lock there.
bool locked_elsewhere(int fd, off_t at) {
  struct flock lock = lock_at(F_WRLCK, at);
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace

Result<void> lock_image(int fd, const std::string& path, Permissions permissions) {
  const bool reader = (permissions.used & kPermissionWrite) == 0;
  const auto busy = [&] {
    return Error(ErrorKind::kBusy, fmt::format("{} is in use by another program{}; {}", path,
                                               reader ? " that writes to it" : "",
                                               reader ? cures().locked_by_writer : cures().locked));
  };
  for (int p = 0; p < kPermissionCount; ++p) {
    const PermissionMask bit = 1u << p;
    const std::pair<off_t, bool> wanted[] = {{kUsedBase + p, (permissions.used & bit) != 0},
                                             {kUnsharedBase + p, (permissions.shared & bit) == 0}};
    for (const auto& [at, lock] : wanted)
      if (const int error = set_lock(fd, lock ? F_RDLCK : F_UNLCK, at); error == EAGAIN || error == EACCES)
        return busy();
  }
  for (int p = 0; p < kPermissionCount; ++p) {
    const PermissionMask bit = 1u << p;
    if ((permissions.used & bit) != 0 && locked_elsewhere(fd, kUnsharedBase + p)) return busy();
    if ((permissions.shared & bit) == 0 && locked_elsewhere(fd, kUsedBase + p)) return busy();
  }
  return {};
}

void unlock_image(int fd) {
  struct flock lock = {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;  // all of the file
  fcntl(fd, F_OFD_SETLK, &lock);
}

}  // namespace ostler::block
