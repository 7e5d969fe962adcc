#include "accel/kvm/request.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "accel/kvm/intercept.h"
#include "base/log.h"

namespace ostler::accel::kvm {

namespace {

Intercept& intercept() {
  static Intercept function;
  return function;
}

int ask(int fd, const Request& request, unsigned long argument) {
  if (intercept()) [[unlikely]]
    if (const auto answer = intercept()(fd, request, argument)) return *answer;
  const int result = ioctl(fd, request.number, argument);
  return result < 0 ? -errno : result;
}

}  // namespace

void set_intercept(Intercept function) {
  intercept() = std::move(function);
}

int call(int fd, const Request& request, unsigned long argument) {
  const int out = ask(fd, request, argument);
  if (log::enabled(log::Subject::kKvm)) [[unlikely]]
    log::write(out < 0 ? fmt::format("kvm: {} on {}: {}", request.name, fd, std::strerror(-out))
                       : fmt::format("kvm: {} on {} = {}", request.name, fd, out));
  return out;
}

}  // namespace ostler::accel::kvm
