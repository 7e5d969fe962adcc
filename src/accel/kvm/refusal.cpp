#include "accel/kvm/refusal.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace ostler::accel::kvm {
namespace {

struct Cure {
  ErrorKind kind;
  std::string_view text;
};

Cure cure_of(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      return {ErrorKind::kPermission,
              "let this process use KVM (groups, a container's or a service's sandbox), or say -accel bt"};
    case EBUSY:
      return {ErrorKind::kBusy,
              "end the other hypervisor that holds the processor's virtualization, or say -accel bt"};
    case ENOMEM:
      return {ErrorKind::kNoResource, "give the guest less memory, or end other programs"};
    case EMFILE:
    case ENFILE:
      return {ErrorKind::kNoResource, "allow more open files (ulimit -n)"};
    case EEXIST:
    case E2BIG:
      return {ErrorKind::kNoResource, "give the guest fewer processors"};
    case ENODEV:
    case EIO:
      return {ErrorKind::kUnsupported, "allow virtualization in the firmware's settings, or say -accel bt"};
    default:
      return {ErrorKind::kUnsupported, "run Linux 5.16 or newer, or say -accel bt"};
  }
}

}  // namespace

Error refusal(std::string_view what, int error) {
  const Cure cure = cure_of(-error);
  return {cure.kind,
          fmt::format("this host's KVM refuses {} ({}): {}", what, std::strerror(-error), cure.text), -error};
}

}  // namespace ostler::accel::kvm
