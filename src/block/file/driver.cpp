// The drivers "file" and "host_device".
#include "block/driver.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>

#include "block/file/file_node.h"
#include "block/file/lock.h"

namespace ostler::block {
namespace {

constexpr OptionSpec kCreateOptions[] = {
    {"size", "size", "Virtual disk size"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)"},
    {"nocow", "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)"},
    {"extent_size_hint", "size", "Extent size hint for the image file, 0 to disable"},
};

Result<NodePtr> open_now(OpenRequest& request) {
  OptionReader& options = request.options;
  TRY_ASSIGN(const auto filename, options.string("filename"));
  if (!filename || filename->empty()) return options.error("filename", "is missing");
  TRY_ASSIGN(const auto aio, options.choice("aio", {"threads", "native", "io_uring"}));
  if (aio == "native" && !request.flags.direct)
    return options.error("aio", "is native, which needs cache.direct=on; or say io_uring");
  TRY_ASSIGN(const auto locking, options.choice("locking", {"auto", "on", "off"}));
  TRY_ASSIGN(const auto drop_cache, options.choice("drop-cache", {"on", "off"}));
  static_cast<void>(drop_cache);
  TRY_ASSIGN(const auto batch, options.size("aio-max-batch"));
  static_cast<void>(batch);  // requests go to the kernel as they come together
  TRY(options.finish());
  FileOptions file;
  file.path = *filename;
  file.read_only = !request.flags.writable;
  file.force_share = request.flags.force_share;
  file.locking = request.flags.locking && locking != "off";
  file.direct = request.flags.direct;
  file.no_flush = request.flags.no_flush;
  file.unmap = request.flags.unmap;
  file.aio = request.flags.aio;
  if (aio) file.aio = aio == "threads" ? Aio::kThreads : Aio::kIoUring;
  TRY_ASSIGN(std::shared_ptr<FileNode> node, FileNode::open(file));
  return NodePtr(std::move(node));
}

Task<Result<NodePtr>> open_file(OpenRequest request) {
  co_return open_now(request);
}

Result<Fd> make_file(const std::string& path, uint64_t size, NewFiles& files) {
  constexpr int kHow = O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  Fd fd(::open(path.c_str(), kHow | O_EXCL, 0644));
  if (fd)
    files.made(path);
  else if (errno == EEXIST)
    fd = Fd(::open(path.c_str(), kHow, 0644));
  if (!fd) return errno_error(path + " cannot be created; check its folder and permissions", errno);
  struct stat status;
  if (fstat(fd.get(), &status) != 0) return errno_error(path + " cannot be examined", errno);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    return Error(ErrorKind::kInvalidArgument, path + " is neither a file nor a block device");
  TRY(lock_image(fd.get(), path, {.used = kPermissionWrite | kPermissionResize, .shared = kPermissionRead}));
  if (!S_ISREG(status.st_mode)) return fd;
  // What its file system cannot hold is told before the content goes.
  if (size > static_cast<uint64_t>(status.st_size) && ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return errno_error(fmt::format("{} cannot be given a size of {} bytes", path, size), errno);
  if (ftruncate(fd.get(), 0) != 0) return errno_error(path + " cannot be emptied", errno);
  return fd;
}

// Hints, before the file has content (ioctl_iflags(2), FS_IOC_FSSETXATTR); a file system without them does as
// it always does.
void turn_off_copy_on_write(int fd) {
  int flags = 0;
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) return;
  flags |= FS_NOCOW_FL;
  ioctl(fd, FS_IOC_SETFLAGS, &flags);
}
void give_extent_size(int fd, uint32_t bytes) {
  struct fsxattr attributes = {};
  if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0) return;
  attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
  attributes.fsx_extsize = bytes;
  ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
}

Task<Result<void>> create_file(CreateRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto filename, options.string("filename"));
  CO_TRY_ASSIGN(const auto size, options.size("size"));
  CO_TRY_ASSIGN(const auto mode, options.choice("preallocation", {"off", "falloc", "full"}));
  CO_TRY_ASSIGN(const auto nocow, options.boolean("nocow"));
  CO_TRY_ASSIGN(const auto hint, options.size("extent_size_hint"));
  CO_TRY(options.finish());
  if (hint.value_or(0) > std::numeric_limits<uint32_t>::max())
    co_return options.error("extent_size_hint", fmt::format("is {}; it must be below 4G", *hint));
  FileOptions file;
  file.path = filename.value_or(request.filename);
  if (file.path.starts_with("file:")) file.path.erase(0, 5);
  CO_TRY_ASSIGN(Fd fd, make_file(file.path, size.value_or(0), request.files));
  struct stat status;
  if (fstat(fd.get(), &status) == 0 && S_ISBLK(status.st_mode)) co_return Result<void>();
  if (nocow.value_or(false)) turn_off_copy_on_write(fd.get());
  if (hint.value_or(0) != 0) give_extent_size(fd.get(), static_cast<uint32_t>(*hint));
  FileNode node(file, std::move(fd), 0, false);
  Preallocation preallocation = Preallocation::kOff;
  if (mode == "falloc") preallocation = Preallocation::kFalloc;
  if (mode == "full") preallocation = Preallocation::kFull;
  co_return co_await node.truncate(size.value_or(0), preallocation);
}

}  // namespace

extern const Driver kFileDriver, kHostDeviceDriver;
const Driver kFileDriver = {.name = "file",
                            .kind = DriverKind::kProtocol,
                            .open = open_file,
                            .create = create_file,
                            .create_options = kCreateOptions,
                            .schemes = "file"};
const Driver kHostDeviceDriver = {.name = "host_device",
                                  .kind = DriverKind::kProtocol,
                                  .open = open_file,
                                  .create = create_file,
                                  .create_options = kCreateOptions};

}  // namespace ostler::block
