#include "base/fd.h"

#include <unistd.h>

namespace ostler {

void Fd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

}  // namespace ostler
