#include "accel/kvm/refusal.h"

#include <fmt/format.h>
#include <grp.h>
#include <sys/stat.h>

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

// The group that may open the device, other than root's; empty: there is none.
std::string group_of(const std::string& path) {
  struct stat about {};
  if (::stat(path.c_str(), &about) != 0 || about.st_gid == 0 || (about.st_mode & 0060) != 0060) return "";
  const group* found = getgrgid(about.st_gid);
  return found == nullptr ? "" : found->gr_name;
}

}  // namespace

Error refusal(std::string_view what, int error) {
  const Cure cure = cure_of(-error);
  return {cure.kind,
          fmt::format("this host's KVM refuses {} ({}): {}", what, std::strerror(-error), cure.text), -error};
}

Error cannot_open(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
      return {ErrorKind::kNotFound,
              path +
                  " is not there: load the kernel's module (modprobe kvm_intel or kvm_amd), or allow "
                  "virtualization in the firmware's settings; give a container the device (--device "
                  "/dev/kvm)",
              error};
    case ENODEV:
    case ENXIO:
      return {ErrorKind::kNotFound,
              path + " has no driver behind it: load the kernel's module (modprobe kvm_intel or kvm_amd)",
              error};
    case EACCES: {
      const std::string group = group_of(path);
      return {ErrorKind::kPermission,
              path + " may not be opened by this user: " +
                  (group.empty()
                       ? fmt::format("sudo setfacl -m u:$USER:rw {}", path)
                       : fmt::format("join its group (sudo usermod -aG {} $USER) and log in again", group)),
              error};
    }
    case EPERM:  // not by its mode: the control group of devices
      return {ErrorKind::kPermission,
              path + " may not be opened in this container: --device /dev/kvm gives it", error};
    default:
      return errno_error(path, error);
  }
}

}  // namespace ostler::accel::kvm
