#include "fs9p/share.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fs9p/mapping.h"

namespace ostler::fs9p {
namespace {

constexpr uint32_t kPermissions = 07777;

// Of all shares: the limit of descriptors is the process's.
std::atomic<unsigned> all_fids = 0;

// How many descriptors this process may have, after it has asked for all.
uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) return raised.rlim_cur;
  }
  return limit.rlim_cur;
}

Attributes::Time time_of(const statx_timestamp& time) {
  return {time.tv_sec, time.tv_nsec};
}

// Types that a plain file can stand for; a folder stays one.
bool may_stand_for(uint32_t host_mode, uint32_t mode) {
  if (S_ISDIR(host_mode)) return S_ISDIR(mode);
  return S_ISREG(mode) || S_ISLNK(mode) || S_ISFIFO(mode) || S_ISSOCK(mode) || S_ISCHR(mode) || S_ISBLK(mode);
}

}  // namespace

Share::Share(ShareOptions options, NodePtr root, unsigned most_fids)
    : options_(std::move(options)), root_(std::move(root)), most_fids_(most_fids), devices_{root_->device} {}

Result<std::shared_ptr<Share>> Share::open(const ShareOptions& options) {
  Fd fd(::open(options.path.c_str(), O_PATH | O_CLOEXEC));
  NodePtr root;
  int error = fd ? node_of(std::move(fd), root) : errno;
  if (error != 0) return errno_error(fmt::format("'{}'", options.path), error);
  if (!root->is_directory())
    return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a folder", options.path));
  Fd again;
  error = open_beneath(root->fd, ".", O_RDONLY | O_DIRECTORY, 0, again);
  if (error == ENOSYS)
    return Error(ErrorKind::kUnsupported,
                 "the host's kernel has no openat2(); a shared folder needs Linux 5.6 or later");
  if (error != 0) return errno_error(fmt::format("'{}'", options.path), error);
  if (::access(ProcPath(again).c_str(), F_OK) != 0)
    return Error(ErrorKind::kUnsupported, "a shared folder needs /proc, and it is not mounted here");
  if (options.security == Security::kMapped && ::fgetxattr(again.get(), "user.virtfs.mode", nullptr, 0) < 0 &&
      errno == EOPNOTSUPP)
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("the file system of '{}' keeps no user attributes, which mapped-xattr needs; say "
                    "security_model=none",
                    options.path));
  const auto most = static_cast<unsigned>(std::min<uint64_t>(kMostFids, raise_descriptor_limit() / 8));
  return std::shared_ptr<Share>(new Share(options, std::move(root), most));
}

int Share::attributes(const Node& node, Attributes& out) const {
  struct statx info {};
  if (::statx(node.fd.get(), "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME,
              &info) != 0)
    return errno;
  out.mode = info.stx_mode;
  out.uid = info.stx_uid;
  out.gid = info.stx_gid;
  out.links = info.stx_nlink;
  out.device = makedev(info.stx_dev_major, info.stx_dev_minor);
  out.inode = info.stx_ino;
  out.special = makedev(info.stx_rdev_major, info.stx_rdev_minor);
  out.size = info.stx_size;
  out.block_size = info.stx_blksize;
  out.blocks = info.stx_blocks;
  out.accessed = time_of(info.stx_atime);
  out.modified = time_of(info.stx_mtime);
  out.changed = time_of(info.stx_ctime);
  out.born = time_of(info.stx_btime);
  out.born_known = (info.stx_mask & STATX_BTIME) != 0;
  if (!mapped() || (!S_ISDIR(out.mode) && !S_ISREG(out.mode))) return 0;
  Mapping mapping;
  if (const int error = load_mapping(node, mapping); error != 0) return error;
  out.uid = mapping.uid.value_or(out.uid);
  out.gid = mapping.gid.value_or(out.gid);
  if (mapping.mode && may_stand_for(out.mode, *mapping.mode)) out.mode = *mapping.mode & 0xffff;
  out.special = mapping.special.value_or(out.special);
  return 0;
}

int Share::qid_path(uint64_t device, uint64_t inode, uint64_t& out) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(devices_, device);
  if (found == devices_.end() && devices_.size() == kMostDevices) return EXDEV;
  const auto index = static_cast<uint64_t>(found - devices_.begin());
  if (found == devices_.end()) devices_.push_back(device);
  // File systems with that many inodes are yet to come.
  out = inode ^ index << 56;
  return 0;
}

int Share::qid(const Attributes& attributes, Qid& out) {
  out.type = S_ISDIR(attributes.mode)   ? Qid::kDirectory
             : S_ISLNK(attributes.mode) ? Qid::kSymlink
                                        : Qid::kFile;
  // Another content has another version, as far as times and sizes tell.
  const auto& time = attributes.modified;
  out.version =
      static_cast<uint32_t>(static_cast<uint64_t>(time.seconds) * 0x9e3779b1u ^
                            uint64_t{time.nanoseconds} * 0x85ebca6bu ^ attributes.size * 0xc2b2ae35u);
  return qid_path(attributes.device, attributes.inode, out.path);
}

// Where every file belongs to the user who runs us, a program of the guest that changes its user on execution
// would give the host's other users our rights.
uint32_t Share::mode_on_host(uint32_t mode) const {
  const bool strip = options_.security == Security::kNone && ::geteuid() != 0;
  return mode & (strip ? 01777u : kPermissions);
}

int Share::give(const Node& node, const Making& making) const {
  if (mapped()) {
    Mapping mapping{.uid = {}, .gid = {}, .mode = making.mode, .special = {}};
    if (making.uid != kNoUser) mapping.uid = making.uid;
    if (making.gid != kNoUser) mapping.gid = making.gid;
    if (S_ISCHR(making.mode) || S_ISBLK(making.mode)) mapping.special = making.special;
    return store_mapping(node, mapping);
  }
  if (const int error = change_owner(node, making.uid, making.gid); error != 0) return error;
  return node.type == S_IFLNK ? 0 : change_mode(node, making.mode);
}

int Share::change_mode(const Node& node, uint32_t mode) const {
  if (mapped() && (node.type == S_IFDIR || node.type == S_IFREG)) {
    Attributes now;
    if (const int error = attributes(node, now); error != 0) return error;
    Mapping mapping;
    mapping.mode = (now.mode & S_IFMT) | (mode & kPermissions);
    return store_mapping(node, mapping);
  }
  if (node.type == S_IFLNK) return EOPNOTSUPP;
  return ::chmod(ProcPath(node.fd).c_str(), mode_on_host(mode)) == 0 ? 0 : errno;
}

int Share::change_owner(const Node& node, uint32_t uid, uint32_t gid) const {
  if (mapped() && (node.type == S_IFDIR || node.type == S_IFREG)) {
    Mapping mapping;
    if (uid != kNoUser) mapping.uid = uid;
    if (gid != kNoUser) mapping.gid = gid;
    return store_mapping(node, mapping);
  }
  if (::fchownat(node.fd.get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0) return 0;
  return options_.security == Security::kNone ? 0 : errno;
}

bool Share::take_fid() {
  if (all_fids.fetch_add(1) < most_fids_) {
    fids_.fetch_add(1);
    return true;
  }
  all_fids.fetch_sub(1);
  return false;
}

void Share::return_fid() {
  fids_.fetch_sub(1);
  all_fids.fetch_sub(1);
}

bool Share::take_xattr_bytes(size_t size) {
  if (xattr_bytes_.fetch_add(size) + size <= kMostXattrBytes) return true;
  xattr_bytes_.fetch_sub(size);
  return false;
}

}  // namespace ostler::fs9p
