#include "fs9p/mapping.h"

#include <sys/xattr.h>

#include <cerrno>

#include "base/bytes.h"

namespace ostler::fs9p {
namespace {

template <class T>
int load(const ProcPath& path, const char* name, std::optional<T>& out) {
  T value{};
  const ssize_t size = ::getxattr(path.c_str(), name, &value, sizeof value);
  if (size == sizeof value)
    out = value;
  else if (size < 0 && errno != ENODATA && errno != ERANGE && errno != EOPNOTSUPP)
    return errno;
  return 0;
}

template <class T>
int store(const ProcPath& path, const char* name, const std::optional<T>& value) {
  if (!value) return 0;
  return ::setxattr(path.c_str(), name, &*value, sizeof *value, 0) == 0 ? 0 : errno;
}

}  // namespace

int load_mapping(const Node& node, Mapping& out) {
  const ProcPath path(node.fd);
  if (const int error = load(path, "user.virtfs.uid", out.uid); error != 0) return error;
  if (const int error = load(path, "user.virtfs.gid", out.gid); error != 0) return error;
  if (const int error = load(path, "user.virtfs.mode", out.mode); error != 0) return error;
  return load(path, "user.virtfs.rdev", out.special);
}

int store_mapping(const Node& node, const Mapping& mapping) {
  const ProcPath path(node.fd);
  if (const int error = store(path, "user.virtfs.uid", mapping.uid); error != 0) return error;
  if (const int error = store(path, "user.virtfs.gid", mapping.gid); error != 0) return error;
  if (const int error = store(path, "user.virtfs.mode", mapping.mode); error != 0) return error;
  return store(path, "user.virtfs.rdev", mapping.special);
}

}  // namespace ostler::fs9p
