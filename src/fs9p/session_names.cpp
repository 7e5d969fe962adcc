// Names in folders: making, moving and removing what they stand for.
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "fs9p/session.h"

namespace ostler::fs9p {

int Session::finish_making(const Place& folder, const std::string& name, const Making& making, bool directory,
                           Reply& reply) {
  NodePtr node;
  Qid qid;
  int error = find_node(*folder.node, name, node);
  if (error == 0) error = share_->give(*node, making);
  if (error == 0) error = qid_of(*node, qid);
  if (error != 0) ::unlinkat(folder.node->fd.get(), name.c_str(), directory ? AT_REMOVEDIR : 0);
  reply << qid;
  return error;
}

int Session::run(const MakeDirectory& request, Reply& reply) {
  Place folder;
  if (const int error = find_changing(request.directory, request.name, folder); error != 0) return error;
  const std::string name(request.name);
  if (::mkdirat(folder.node->fd.get(), name.c_str(),
                share_->mapped() ? share_->options().directory_mode : 0700) != 0)
    return errno;
  const Making making{.uid = folder.uid, .gid = request.gid, .mode = S_IFDIR | (request.mode & 07777u)};
  return finish_making(folder, name, making, true, reply);
}

int Session::run(const Symlink& request, Reply& reply) {
  Place folder;
  if (const int error = find_changing(request.directory, request.name, folder); error != 0) return error;
  const std::string name(request.name), target(request.target);
  if (target.empty() || target.find('\0') != std::string::npos) return EINVAL;
  if (target.size() >= PATH_MAX) return ENAMETOOLONG;
  if (!share_->mapped()) {
    if (::symlinkat(target.c_str(), folder.node->fd.get(), name.c_str()) != 0) return errno;
  } else {
    Fd file;
    if (const int error = open_beneath(folder.node->fd, name, O_WRONLY | O_CREAT | O_EXCL,
                                       share_->options().file_mode, file);
        error != 0)
      return error;
    if (::write(file.get(), target.data(), target.size()) != static_cast<ssize_t>(target.size())) {
      ::unlinkat(folder.node->fd.get(), name.c_str(), 0);
      return ENOSPC;
    }
  }
  return finish_making(folder, name, {.uid = folder.uid, .gid = request.gid, .mode = S_IFLNK | 0777}, false,
                       reply);
}

// With security_model=none no device appears on the host: a program there that may open it would be let in by
// the guest.
int Session::run(const MakeNode& request, Reply& reply) {
  Place folder;
  if (const int error = find_changing(request.directory, request.name, folder); error != 0) return error;
  const std::string name(request.name);
  const uint32_t type = request.mode & S_IFMT;
  const bool device = type == S_IFCHR || type == S_IFBLK;
  if (!device && type != S_IFREG && type != S_IFIFO && type != S_IFSOCK) return EINVAL;
  if (device && share_->options().security == Security::kNone) return EPERM;
  const dev_t special = makedev(request.major, request.minor);
  const bool mapped = share_->mapped();
  const mode_t mode = mapped ? S_IFREG | share_->options().file_mode : type | 0600;
  if (::mknodat(folder.node->fd.get(), name.c_str(), mode, device && !mapped ? special : 0) != 0)
    return errno;
  return finish_making(
      folder, name,
      {.uid = folder.uid, .gid = request.gid, .mode = type | (request.mode & 07777u), .special = special},
      false, reply);
}

int Session::run(const ReadLink& request, Reply& reply) {
  Place place;
  if (const int error = find_place(request.fid, place); error != 0) return error;
  std::array<char, PATH_MAX> target;
  ssize_t size = 0;
  if (place.node->type == S_IFLNK) {
    size = ::readlinkat(place.node->fd.get(), "", target.data(), target.size());
  } else {
    Attributes attributes;
    if (const int error = share_->attributes(*place.node, attributes); error != 0) return error;
    if (!S_ISLNK(attributes.mode)) return EINVAL;
    Fd file;
    if (const int error = reopen(*place.node, O_RDONLY, file); error != 0) return error;
    size = ::pread(file.get(), target.data(), target.size(), 0);
  }
  if (size < 0) return errno;
  reply << std::string_view(target.data(), static_cast<size_t>(size));
  return 0;
}

int Session::run(const RenameAt& request, Reply&) {
  Place from, to;
  if (const int error = find_changing(request.old_directory, request.old_name, from); error != 0)
    return error;
  if (const int error = find_changing(request.new_directory, request.new_name, to); error != 0) return error;
  const std::string old_name(request.old_name), new_name(request.new_name);
  return ::renameat(from.node->fd.get(), old_name.c_str(), to.node->fd.get(), new_name.c_str()) == 0 ? 0
                                                                                                     : errno;
}

namespace {

// Whether `place` is still where it was found.
int check_entry(const Place& place) {
  if (place.parent == nullptr) return EBUSY;
  NodePtr now;
  if (const int error = find_node(*place.parent, place.name, now); error != 0) return error;
  return now->same_as(*place.node) ? 0 : ENOENT;
}

}  // namespace

int Session::run(const Rename& request, Reply&) {
  Place folder;
  if (const int error = find_changing(request.directory, request.name, folder); error != 0) return error;
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const Place place = fid->where();
  if (const int error = check_entry(place); error != 0) return error;
  const std::string name(request.name);
  if (::renameat(place.parent->fd.get(), place.name.c_str(), folder.node->fd.get(), name.c_str()) != 0)
    return errno;
  const std::lock_guard lock(fid->mutex);
  fid->place.parent = folder.node;
  fid->place.name = name;
  return 0;
}

int Session::run(const Link& request, Reply&) {
  Place folder, place;
  if (const int error = find_changing(request.directory, request.name, folder); error != 0) return error;
  if (const int error = find_place(request.fid, place); error != 0) return error;
  const std::string name(request.name);
  return ::linkat(AT_FDCWD, ProcPath(place.node->fd).c_str(), folder.node->fd.get(), name.c_str(),
                  AT_SYMLINK_FOLLOW) == 0
             ? 0
             : errno;
}

int Session::run(const UnlinkAt& request, Reply&) {
  Place folder;
  if (const int error = find_changing(request.directory, request.name, folder); error != 0) return error;
  if ((request.flags & ~kRemoveDirectory) != 0) return EINVAL;
  const std::string name(request.name);
  const int flags = (request.flags & kRemoveDirectory) != 0 ? AT_REMOVEDIR : 0;
  return ::unlinkat(folder.node->fd.get(), name.c_str(), flags) == 0 ? 0 : errno;
}

int Session::remove_entry(const Place& place) {
  if (share_->options().read_only) return EROFS;
  if (const int error = check_entry(place); error != 0) return error;
  const int flags = place.node->is_directory() ? AT_REMOVEDIR : 0;
  return ::unlinkat(place.parent->fd.get(), place.name.c_str(), flags) == 0 ? 0 : errno;
}

// remove(5): the fid is gone in any case.
int Session::run(const Remove& request, Reply&) {
  const FidPtr fid = fids_.take(request.fid);
  return fid == nullptr ? EBADF : remove_entry(fid->where());
}

}  // namespace ostler::fs9p
