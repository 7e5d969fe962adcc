#include "accel/kvm/request.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace ostler::accel::kvm {

int call(int fd, const Request& request, unsigned long argument) {
  const int result = ioctl(fd, request.number, argument);
  const int out = result < 0 ? -errno : result;
  if (log::enabled(log::Subject::kKvm)) [[unlikely]]
    log::write(result < 0 ? fmt::format("kvm: {} on {}: {}", request.name, fd, std::strerror(-out))
                          : fmt::format("kvm: {} on {} = {}", request.name, fd, out));
  return out;
}

}  // namespace ostler::accel::kvm
