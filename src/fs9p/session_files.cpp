// Opening, reading, writing and locking files.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fs9p/session.h"

namespace ostler::fs9p {
namespace {

// Of the flags those that change what the host does for this open file. O_DIRECT would want aligned buffers,
// O_NOATIME the right to the file.
int host_flags(uint32_t flags) {
  const uint32_t access = flags & open_flags::kAccess;
  int host = access == open_flags::kWriteOnly   ? O_WRONLY
             : access == open_flags::kReadWrite ? O_RDWR
                                                : O_RDONLY;
  if ((flags & open_flags::kTruncate) != 0) host |= O_TRUNC;
  if ((flags & open_flags::kAppend) != 0) host |= O_APPEND;
  if ((flags & open_flags::kDataSync) != 0) host |= O_DSYNC;
  if ((flags & open_flags::kSync) == open_flags::kSync) host |= O_SYNC;
  return host;
}

bool changes(uint32_t flags) {
  return (flags & open_flags::kAccess) != 0 || (flags & open_flags::kTruncate) != 0;
}

// Offsets and lengths that the host's calls can take.
bool fits(uint64_t offset, uint64_t length) {
  return offset <= INT64_MAX && length <= INT64_MAX - offset;
}

// False when the guest's numbers are none of a lock.
bool make_lock(uint8_t type, uint64_t start, uint64_t length, struct flock& out) {
  if (type > static_cast<uint8_t>(LockType::kUnlock) || !fits(start, length)) return false;
  out = {};
  constexpr short kTypes[] = {F_RDLCK, F_WRLCK, F_UNLCK};
  out.l_type = kTypes[type];
  out.l_whence = SEEK_SET;
  out.l_start = static_cast<off_t>(start);
  out.l_len = static_cast<off_t>(length);
  return true;
}

LockType type_of(const struct flock& lock) {
  return lock.l_type == F_RDLCK   ? LockType::kRead
         : lock.l_type == F_WRLCK ? LockType::kWrite
                                  : LockType::kUnlock;
}

}  // namespace

// Special files are the guest's own kernel's to open; here that could wait for ever, or move a tape.
int Session::open_place(const Place& place, uint32_t flags, std::shared_ptr<OpenFile>& out, Qid& qid) {
  if (share_->options().read_only && changes(flags)) return EROFS;
  Attributes attributes;
  if (const int error = share_->attributes(*place.node, attributes); error != 0) return error;
  if (const int error = share_->qid(attributes, qid); error != 0) return error;
  if (S_ISLNK(attributes.mode)) return ELOOP;
  if (S_ISDIR(attributes.mode) ? changes(flags) : (flags & open_flags::kDirectory) != 0)
    return S_ISDIR(attributes.mode) ? EISDIR : ENOTDIR;
  if (!S_ISDIR(attributes.mode) && !S_ISREG(attributes.mode)) return ENXIO;
  auto file = std::make_shared<OpenFile>();
  if (const int error = reopen(*place.node, host_flags(flags), file->fd); error != 0) return error;
  out = std::move(file);
  return 0;
}

int Session::run(const Open& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const Place place = fid->where();
  std::shared_ptr<OpenFile> file;
  Qid qid;
  if (const int error = open_place(place, request.flags, file, qid); error != 0) return error;
  {
    const std::lock_guard lock(fid->mutex);
    if (fid->file != nullptr || fid->xattr != nullptr || fid->place.node != place.node) return EBUSY;
    fid->file = std::move(file);
  }
  reply << qid << uint32_t{0};  // iounit: what fits into a message
  return 0;
}

int Session::run(const Create& request, Reply& reply) {
  Place folder;
  if (const int error = find_changing(request.fid, request.name, folder); error != 0) return error;
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  if (fid->opened() != nullptr) return EBUSY;
  Place made{.node = nullptr, .parent = folder.node, .name = std::string(request.name), .uid = folder.uid};
  auto file = std::make_shared<OpenFile>();
  Qid qid;
  // Made, or opened as any other that exists: never a special file that happens to be there.
  int error =
      open_beneath(folder.node->fd, made.name, host_flags(request.flags) | O_CREAT | O_EXCL | O_NOCTTY,
                   share_->mapped() ? share_->options().file_mode : 0600, file->fd);
  if (error == EEXIST && (request.flags & open_flags::kExclusive) == 0) {
    if (error = find_node(*folder.node, made.name, made.node); error != 0) return error;
    if (error = open_place(made, request.flags, file, qid); error != 0) return error;
  } else if (error == 0) {
    const Making making{.uid = folder.uid, .gid = request.gid, .mode = S_IFREG | (request.mode & 07777u)};
    error = reopen_as_node(file->fd, made.node);
    if (error == 0) error = share_->give(*made.node, making);
    if (error == 0) error = qid_of(*made.node, qid);
    if (error != 0) ::unlinkat(folder.node->fd.get(), made.name.c_str(), 0);
  }
  if (error != 0) return error;
  {
    const std::lock_guard lock(fid->mutex);
    if (fid->file != nullptr || fid->xattr != nullptr || fid->place.node != folder.node) return EBUSY;
    fid->place = std::move(made);
    fid->file = std::move(file);
  }
  reply << qid << uint32_t{0};
  return 0;
}

int Session::run(const Read& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const uint32_t count = data_room(request.count, reply);
  {
    const std::lock_guard lock(fid->mutex);
    if (fid->xattr != nullptr) {
      const auto all = std::span<const std::byte>(fid->xattr->bytes);
      if (!fid->xattr->name.empty()) return EBADF;
      const auto rest = all.subspan(std::min<uint64_t>(request.offset, all.size()));
      const auto part = rest.first(std::min<size_t>(count, rest.size()));
      reply << static_cast<uint32_t>(part.size()) << part;
      return 0;
    }
  }
  const auto file = fid->opened();
  if (file == nullptr) return EBADF;
  if (!fits(request.offset, count)) return EINVAL;
  reply << uint32_t{0};
  const auto space = reply.space(count);
  const ssize_t got = ::pread(file->fd.get(), space.data(), space.size(), static_cast<off_t>(request.offset));
  if (got < 0) return errno;
  reply.patch(kHeaderBytes, static_cast<uint32_t>(got));
  reply.cut(count - static_cast<size_t>(got));
  return 0;
}

int Session::run(const Write& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  {
    const std::lock_guard lock(fid->mutex);
    if (fid->xattr != nullptr) {
      XattrValue& value = *fid->xattr;
      if (value.name.empty()) return EBADF;
      // In order, as the file system of Linux does, so that one number tells what is there.
      if (request.offset != value.written || request.data.size() > value.bytes.size() - value.written)
        return ENOSPC;
      std::memcpy(value.bytes.data() + value.written, request.data.data(), request.data.size());
      value.written += request.data.size();
      reply << static_cast<uint32_t>(request.data.size());
      return 0;
    }
  }
  const auto file = fid->opened();
  if (file == nullptr) return EBADF;
  if (!fits(request.offset, request.data.size())) return EFBIG;
  const ssize_t put =
      ::pwrite(file->fd.get(), request.data.data(), request.data.size(), static_cast<off_t>(request.offset));
  if (put < 0) return errno;
  reply << static_cast<uint32_t>(put);
  return 0;
}

int Session::run(const Sync& request, Reply&) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const auto file = fid->opened();
  if (file == nullptr) return EBADF;
  return (request.data_only != 0 ? ::fdatasync(file->fd.get()) : ::fsync(file->fd.get())) == 0 ? 0 : errno;
}

// Locks of the open file, so that the host's programs and other guests see them. Never waited for: a client
// that wants to wait asks again.
int Session::run(const Lock& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const auto file = fid->opened();
  if (file == nullptr) return EBADF;
  struct flock lock;
  if (!make_lock(request.type, request.start, request.length, lock)) return EINVAL;
  LockStatus status = LockStatus::kSuccess;
  if (::fcntl(file->fd.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno != EAGAIN && errno != EACCES) return errno;
    status = LockStatus::kBlocked;
  }
  reply << static_cast<uint8_t>(status);
  return 0;
}

int Session::run(const GetLock& request, Reply& reply) {
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const auto file = fid->opened();
  if (file == nullptr) return EBADF;
  struct flock lock;
  if (request.type == static_cast<uint8_t>(LockType::kUnlock) ||
      !make_lock(request.type, request.start, request.length, lock))
    return EINVAL;
  if (::fcntl(file->fd.get(), F_OFD_GETLK, &lock) != 0) return errno;
  const bool none = lock.l_type == F_UNLCK;
  reply << static_cast<uint8_t>(type_of(lock)) << (none ? request.start : static_cast<uint64_t>(lock.l_start))
        << (none ? request.length : static_cast<uint64_t>(lock.l_len)) << request.process << request.client;
  return 0;
}

}  // namespace ostler::fs9p
