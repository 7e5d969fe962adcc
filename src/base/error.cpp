#include "base/error.h"

#include <cerrno>
#include <cstring>

namespace ostler {
namespace {

ErrorKind kind_of_errno(int host_errno) {
  switch (host_errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return ErrorKind::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorKind::kPermission;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EDQUOT:
      return ErrorKind::kNoResource;
    case EBUSY:
    case EADDRINUSE:
    case ETXTBSY:
      return ErrorKind::kBusy;
    case EINVAL:
      return ErrorKind::kInvalidArgument;
    case ENOSYS:
    case EOPNOTSUPP:
      return ErrorKind::kUnsupported;
    default:
      return ErrorKind::kIo;
  }
}

}  // namespace

Error errno_error(std::string message, int host_errno) {
  char buffer[128];
  message += ": ";
  message += strerror_r(host_errno, buffer, sizeof buffer);
  return Error(kind_of_errno(host_errno), std::move(message), host_errno);
}

}  // namespace ostler
