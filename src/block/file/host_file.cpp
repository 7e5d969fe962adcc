#include "block/file/host_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "block/file/cures.h"
#include "block/file/lock.h"

namespace ostler::block {
namespace {

Error open_error(const FileOptions& options, int error) {
  const std::string& path = options.path;
  if (error == ENOENT)
    return errno_error(path + ": no such disk image; check the path, or create it first", error);
  if (error == EISDIR) return errno_error(path + " is a directory; name a disk image in it", error);
  if (error == EINVAL && options.direct)
    return errno_error(
        path + ": its file system has no O_DIRECT; use another cache mode than none or directsync", error);
  if ((error == EACCES || error == EROFS || error == EPERM) && !options.read_only &&
      access(path.c_str(), R_OK) == 0)
    return errno_error(fmt::format("{} cannot be written; {}", path, cures().not_writable), error);
  if (error == EACCES) return errno_error(path + " cannot be opened; check its permissions", error);
  return errno_error(path + " cannot be opened", error);
}

}  // namespace

Result<void> lock_host_file(int fd, const FileOptions& options) {
  Permissions permissions;
  permissions.used = options.read_only ? kPermissionRead : kPermissionRead | kPermissionWrite;
  permissions.shared =
      options.force_share ? kPermissionsAll : kPermissionsAll & ~(kPermissionWrite | kPermissionResize);
  return lock_image(fd, options.path, permissions);
}

Result<OpenedFile> open_host_file(const FileOptions& options) {
  const std::string& path = options.path;
  // O_NONBLOCK so that a FIFO cannot hang us; regular files and disks ignore it.
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | (options.direct ? O_DIRECT : 0);
  OpenedFile file;
  file.fd = Fd(::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file.fd) return open_error(options, errno);
  struct stat status;
  if (fstat(file.fd.get(), &status) != 0) return errno_error(path + " cannot be examined", errno);
  if (S_ISDIR(status.st_mode))
    return Error(ErrorKind::kInvalidArgument, path + " is a directory; name a disk image in it", EISDIR);
  if (S_ISREG(status.st_mode)) {
    file.size = static_cast<uint64_t>(status.st_size);
  } else if (S_ISBLK(status.st_mode)) {
    file.is_device = true;
    if (ioctl(file.fd.get(), BLKGETSIZE64, &file.size) != 0)
      return errno_error(path + ": its size cannot be read", errno);
  } else {
    return Error(ErrorKind::kInvalidArgument,
                 path + " is neither a file nor a block device; name a disk image");
  }
  if (options.locking) TRY(lock_host_file(file.fd.get(), options));
  return file;
}

uint32_t direct_io_alignment(int fd) {
  struct stat status;
  int sector = 0;
  if (fstat(fd, &status) == 0 && S_ISBLK(status.st_mode) && ioctl(fd, BLKSSZGET, &sector) == 0 &&
      sector >= 512 && sector <= 4096)
    return static_cast<uint32_t>(sector);
  struct statx extended;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0 && extended.stx_dio_offset_align != 0)
    return std::clamp(std::max(extended.stx_dio_mem_align, extended.stx_dio_offset_align), 512u, 4096u);
  return 4096;
}

}  // namespace ostler::block
