#include "fs9p/host_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace ostler::fs9p {
namespace {

constexpr int kNodeFlags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
// Longer than any path that a program can have used to get there.
constexpr unsigned kMostLevels = PATH_MAX;

int open_in(const Fd& folder, const char* name, int flags, mode_t mode, uint64_t resolve, Fd& out) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  how.mode = mode;
  how.resolve = resolve;
  const long fd = ::syscall(SYS_openat2, folder.get(), name, &how, sizeof how);
  if (fd < 0) return errno;
  out.reset(static_cast<int>(fd));
  return 0;
}

// One level up, wherever that is.
int open_above(const Fd& folder, NodePtr& out) {
  Fd fd;
  if (const int error = open_in(folder, "..", kNodeFlags | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS, fd);
      error != 0)
    return error;
  return node_of(std::move(fd), out);
}

}  // namespace

ProcPath::ProcPath(const Fd& fd) : text_{} {
  fmt::format_to_n(text_.data(), text_.size() - 1, "/proc/self/fd/{}", fd.get());
}

int check_name(std::string_view name) {
  if (name.empty()) return ENOENT;
  if (name == "." || name == ".." || name.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos)
    return EINVAL;
  return name.size() > NAME_MAX ? ENAMETOOLONG : 0;
}

int open_beneath(const Fd& folder, const std::string& name, int flags, mode_t mode, Fd& out) {
  return open_in(folder, name.c_str(), flags | O_NOFOLLOW, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
                 out);
}

int node_of(Fd fd, NodePtr& out) {
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno;
  auto node = std::make_shared<Node>();
  node->fd = std::move(fd);
  node->device = info.st_dev;
  node->inode = info.st_ino;
  node->type = info.st_mode & S_IFMT;
  out = std::move(node);
  return 0;
}

int find_node(const Node& folder, const std::string& name, NodePtr& out) {
  if (!folder.is_directory()) return ENOTDIR;
  Fd fd;
  if (const int error = open_beneath(folder.fd, name, kNodeFlags, 0, fd); error != 0) return error;
  return node_of(std::move(fd), out);
}

int reopen(const Node& node, int flags, Fd& out) {
  if (node.type != S_IFREG && node.type != S_IFDIR) return node.type == S_IFLNK ? ELOOP : ENXIO;
  // Never waits for somebody who holds a lease of the file.
  const int fd = ::open(ProcPath(node.fd).c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno;
  out.reset(fd);
  return 0;
}

int reopen_as_node(const Fd& open, NodePtr& out) {
  Fd fd(::open(ProcPath(open).c_str(), O_PATH | O_CLOEXEC));
  if (!fd) return errno;
  return node_of(std::move(fd), out);
}

int parent_of(const NodePtr& folder, const NodePtr& root, NodePtr& out) {
  if (!folder->is_directory()) return ENOTDIR;
  if (folder->same_as(*root)) {
    out = root;
    return 0;
  }
  NodePtr parent;
  if (const int error = open_above(folder->fd, parent); error != 0) return error;
  // Somebody may have moved the folder: what is above it is only for the guest when the root is above that.
  NodePtr at = parent;
  for (unsigned level = 0; level < kMostLevels && !at->same_as(*root); ++level) {
    NodePtr above;
    if (const int error = open_above(at->fd, above); error != 0) return error;
    if (above->same_as(*at)) return ENOENT;
    at = std::move(above);
  }
  if (!at->same_as(*root)) return ENOENT;
  out = std::move(parent);
  return 0;
}

}  // namespace ostler::fs9p
