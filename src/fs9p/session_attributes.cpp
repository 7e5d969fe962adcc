// Attributes of files, extended ones, and of the file system.
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "fs9p/mapping.h"
#include "fs9p/session.h"

namespace ostler::fs9p {
namespace {

constexpr uint32_t kFileSystemType = 0x01021997;  // linux/magic.h: V9FS_MAGIC
constexpr uint32_t kNanoseconds = 1'000'000'000;

Reply& operator<<(Reply& reply, const Attributes::Time& time) {
  return reply << static_cast<uint64_t>(time.seconds) << uint64_t{time.nanoseconds};
}

// 0 when guests may use this attribute. Those of the mapping are ours, and access lists would be of owners
// that the host does not have.
int check_xattr(const Share& share, std::string_view name) {
  if (name.empty() || name.find('\0') != std::string_view::npos) return EINVAL;
  if (name.size() > XATTR_NAME_MAX) return ERANGE;
  if (!share.mapped()) return 0;
  return name.starts_with(kMappingPrefix) || name.starts_with("system.posix_acl_") ? EOPNOTSUPP : 0;
}

// The list without names that guests may not use.
std::vector<std::byte> visible(const Share& share, std::string_view list) {
  std::vector<std::byte> out;
  while (!list.empty()) {
    const std::string_view name = list.substr(0, list.find('\0'));
    const auto bytes = std::as_bytes(std::span(list.substr(0, std::min(name.size() + 1, list.size()))));
    if (check_xattr(share, name) == 0) out.insert(out.end(), bytes.begin(), bytes.end());
    list.remove_prefix(bytes.size());
  }
  return out;
}

// What utimensat() is told of one time; false: no time.
bool time_to_set(uint32_t valid, uint32_t wanted, uint32_t given, uint64_t seconds, uint64_t nanoseconds,
                 timespec& out) {
  out = {0, UTIME_OMIT};
  if ((valid & wanted) == 0) return true;
  out.tv_nsec = UTIME_NOW;
  if ((valid & given) == 0) return true;
  out = {static_cast<time_t>(seconds), static_cast<long>(nanoseconds)};
  return nanoseconds < kNanoseconds;
}

int truncate_node(const Share& share, const Node& node, const std::shared_ptr<OpenFile>& file,
                  uint64_t size) {
  Attributes attributes;
  if (const int error = share.attributes(node, attributes); error != 0) return error;
  if (!S_ISREG(attributes.mode)) return S_ISDIR(attributes.mode) ? EISDIR : EINVAL;
  if (size > INT64_MAX) return EFBIG;
  // A file that is open for writing may be cut whatever its mode has become.
  if (file != nullptr && ::ftruncate(file->fd.get(), static_cast<off_t>(size)) == 0) return 0;
  return ::truncate(ProcPath(node.fd).c_str(), static_cast<off_t>(size)) == 0 ? 0 : errno;
}

}  // namespace

int Session::run(const GetAttributes& request, Reply& reply) {
  Place place;
  if (const int error = find_place(request.fid, place); error != 0) return error;
  Attributes a;
  Qid qid;
  if (const int error = share_->attributes(*place.node, a); error != 0) return error;
  if (const int error = share_->qid(a, qid); error != 0) return error;
  reply << (kBasicAttributes | (a.born_known ? kBirthTime : 0)) << qid << a.mode << a.uid << a.gid << a.links
        << a.special << a.size << a.block_size << a.blocks << a.accessed << a.modified << a.changed << a.born
        << uint64_t{0} << uint64_t{0};
  return 0;
}

// Size and owner first: the host may take bits of the mode away for them.
int Session::run(const SetAttributes& request, Reply&) {
  if (share_->options().read_only) return EROFS;
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  const NodePtr node = fid->where().node;
  const uint32_t valid = request.valid;
  timespec times[2];
  if (!time_to_set(valid, set::kAtime, set::kAtimeGiven, request.atime, request.atime_ns, times[0]) ||
      !time_to_set(valid, set::kMtime, set::kMtimeGiven, request.mtime, request.mtime_ns, times[1]))
    return EINVAL;
  if ((valid & set::kSize) != 0)
    if (const int error = truncate_node(*share_, *node, fid->opened(), request.size); error != 0)
      return error;
  if ((valid & (set::kUid | set::kGid)) != 0) {
    const uint32_t uid = (valid & set::kUid) != 0 ? request.uid : kNoUser;
    const uint32_t gid = (valid & set::kGid) != 0 ? request.gid : kNoUser;
    if (const int error = share_->change_owner(*node, uid, gid); error != 0) return error;
  }
  if ((valid & set::kMode) != 0)
    if (const int error = share_->change_mode(*node, request.mode); error != 0) return error;
  if ((valid & (set::kAtime | set::kMtime)) == 0) return 0;
  return ::utimensat(node->fd.get(), "", times, AT_EMPTY_PATH) == 0 ? 0 : errno;
}

// Links of the host have no attributes that a guest could use.
int Session::run(const XattrWalk& request, Reply& reply) {
  Place place;
  if (const int error = find_place(request.fid, place); error != 0) return error;
  const std::string name(request.name);
  std::vector<std::byte> bytes;
  if (!name.empty())
    if (const int error = check_xattr(*share_, name); error != 0) return error;
  if (place.node->type == S_IFLNK) {
    if (!name.empty()) return EOPNOTSUPP;
  } else {
    bytes.resize(XATTR_SIZE_MAX);
    const ProcPath path(place.node->fd);
    const ssize_t size = name.empty()
                             ? ::listxattr(path.c_str(), reinterpret_cast<char*>(bytes.data()), bytes.size())
                             : ::getxattr(path.c_str(), name.c_str(), bytes.data(), bytes.size());
    if (size < 0) return errno;
    bytes.resize(static_cast<size_t>(size));
    if (name.empty()) bytes = visible(*share_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    bytes.shrink_to_fit();
  }
  const uint64_t size = bytes.size();
  auto value = XattrValue::make(share_, std::move(bytes));
  if (value == nullptr) return ENOMEM;
  if (!share_->take_fid()) return EMFILE;
  auto fid = std::make_shared<Fid>(share_, std::move(place));
  fid->xattr = std::move(value);  // nobody else knows it yet
  if (!fids_.add(request.new_fid, std::move(fid))) return EBADF;
  reply << size;
  return 0;
}

int Session::run(const XattrCreate& request, Reply&) {
  if (share_->options().read_only) return EROFS;
  if (const int error = check_xattr(*share_, request.name); error != 0) return error;
  if (request.size > XATTR_SIZE_MAX) return E2BIG;
  if ((request.flags & ~uint32_t{XATTR_CREATE | XATTR_REPLACE}) != 0) return EINVAL;
  FidPtr fid;
  if (const int error = find(request.fid, fid); error != 0) return error;
  auto value = XattrValue::make(share_, std::vector<std::byte>(request.size));
  if (value == nullptr) return ENOMEM;
  value->name = request.name;
  value->flags = static_cast<int>(request.flags);
  const std::lock_guard lock(fid->mutex);
  if (fid->place.node->type == S_IFLNK) return EOPNOTSUPP;
  if (fid->file != nullptr || fid->xattr != nullptr) return EBUSY;
  fid->xattr = std::move(value);
  return 0;
}

int Session::run(const StatFs& request, Reply& reply) {
  Place place;
  if (const int error = find_place(request.fid, place); error != 0) return error;
  struct statfs info {};
  if (::fstatfs(place.node->fd.get(), &info) != 0) return errno;
  uint64_t id = 0;
  static_assert(sizeof info.f_fsid == sizeof id);
  std::memcpy(&id, &info.f_fsid, sizeof id);
  reply << kFileSystemType << static_cast<uint32_t>(info.f_bsize) << uint64_t{info.f_blocks}
        << uint64_t{info.f_bfree} << uint64_t{info.f_bavail} << uint64_t{info.f_files}
        << uint64_t{info.f_ffree} << id << static_cast<uint32_t>(info.f_namelen);
  return 0;
}

}  // namespace ostler::fs9p
