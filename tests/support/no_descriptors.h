// While it lives this process gets no new descriptor: as at the limit of open files.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/fd.h"

namespace ostler::test {

class NoDescriptors {
 public:
  NoDescriptors() {
    // The kernel gives the lowest number that is free.
    const Fd lowest(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    rlimit none{};
    if (!lowest || ::getrlimit(RLIMIT_NOFILE, &before_) != 0) abort();
    none = {.rlim_cur = static_cast<rlim_t>(lowest.get()), .rlim_max = before_.rlim_max};
    if (::setrlimit(RLIMIT_NOFILE, &none) != 0) abort();
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

}  // namespace ostler::test
