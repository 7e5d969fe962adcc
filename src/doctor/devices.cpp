// What the host lends guests: io_uring for disks, tap, bridges and vhost for networks, namespaces.
#include <fmt/format.h>
#include <liburing.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "doctor/checks.h"

namespace ostler::doctor {
namespace {

Finding io_uring(const Host& host) {
  Finding finding{.id = "io_uring", .says = {}, .cure = {}};
  ::io_uring ring;
  const int error = io_uring_queue_init(8, &ring, 0);
  if (error == 0) {
    io_uring_queue_exit(&ring);
    finding.says = "disks are read and written by io_uring";
    return finding;
  }
  finding.state = State::kLimited;
  finding.says = fmt::format("the kernel refuses io_uring ({}): disks are read and written by threads",
                             std::strerror(-error));
  constexpr std::string_view file = "/proc/sys/kernel/io_uring_disabled";
  // Where that setting says nothing, a filter of system calls does: it answers EPERM, or ENOSYS as old
  // kernels do.
  if (error == -EPERM && host.number(file).value_or(0) != 0)
    finding.cure = fmt::format("{}sudo sysctl kernel.io_uring_disabled=0", host.where_to_write(file));
  else if (error == -EPERM || (error == -ENOSYS && host.exists(file)))
    finding.cure =
        "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the "
        "container or service";
  else if (error == -ENOSYS)
    finding.cure = "run Linux 5.15 or newer; in a container, allow io_uring in its seccomp profile";
  else if (error == -ENOMEM)
    finding.cure = "raise the limit of locked memory (ulimit -l)";
  else if (error == -EMFILE || error == -ENFILE)
    finding.cure = "raise the limit of open files (ulimit -n)";
  return finding;
}

Finding device(const Host& host, std::string id, const std::string& path, std::string_view good,
               std::string_view without, std::string_view module) {
  Finding finding{.id = std::move(id), .says = {}, .cure = {}};
  const int error = host.open_error(path);
  if (error == 0) {
    finding.says = good;
    return finding;
  }
  finding.state = State::kMissing;
  const bool absent = error == ENOENT || error == ENODEV || error == ENXIO;
  finding.says = fmt::format("{} {}: {}", path, absent ? "is not there" : "may not be opened", without);
  const std::string name = std::filesystem::path(path).filename();
  if (error == EACCES)
    finding.cure = fmt::format("sudo setfacl -m u:$USER:rw {}", path);
  else if (!absent || host.exists("/sys/class/misc/" + name))  // the kernel has it
    finding.cure = fmt::format("give it to the container (--device {})", path);
  else
    finding.cure =
        fmt::format("sudo modprobe {}; in a container, give it the device too (--device {})", module, path);
  return finding;
}

Finding bridges(const Host& host) {
  Finding finding{.id = "bridge", .says = {}, .cure = {}};
  std::vector<std::string> found;
  for (const std::string& each : host.entries("/sys/class/net"))
    if (host.exists("/sys/class/net/" + each + "/bridge") && host.has_interface(each)) found.push_back(each);
  if (!found.empty()) {
    finding.says = fmt::format("guests can join {}", fmt::join(found, ", "));
    return finding;
  }
  if (const std::string why = host.unseen("/sys/class/net", "/sys/class/net"); !why.empty()) {
    finding.state = State::kUnknown;
    finding.says = fmt::format("bridges cannot be looked at: {}", why);
    finding.cure = "ip link show type bridge";
    return finding;
  }
  finding.state = State::kLimited;
  finding.says = "there is no bridge";
  finding.cure = "sudo ip link add br0 type bridge, and sudo ip link set br0 up";
  return finding;
}

// Whether a child may make itself a user namespace.
bool can_unshare_user() {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : 1);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Finding user_namespaces(const Host& host) {
  Finding finding{.id = "user-namespaces", .says = {}, .cure = {}};
  if (can_unshare_user()) {
    finding.says = "this user can make user namespaces";
    return finding;
  }
  finding.state = State::kMissing;
  finding.says =
      "this user cannot make user namespaces, by which programs such as virtiofsd confine themselves";
  const auto set = [&](std::string_view file, std::string_view setting) {
    finding.cure = fmt::format("{}sudo sysctl {}", host.where_to_write(file), setting);
  };
  if (host.number("/proc/sys/kernel/unprivileged_userns_clone") == 0u)
    set("/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone=1");
  else if (host.number("/proc/sys/user/max_user_namespaces") == 0u)
    set("/proc/sys/user/max_user_namespaces", "user.max_user_namespaces=15000");
  else if (host.number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1u)
    set("/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "kernel.apparmor_restrict_unprivileged_userns=0");
  else
    finding.cure = "allow unshare in the seccomp profile of the container or service; a chroot allows none";
  return finding;
}

}  // namespace

Section check_storage(const Host& host) {
  return {"Disks", {io_uring(host)}};
}

Section check_networks(const Host& host) {
  return {
      "Networks",
      {device(host, "tap", "/dev/net/tun", "tap devices can be made, by who may administer the network",
              "no tap devices", "tun"),
       bridges(host),
       device(host, "vhost-net", "/dev/vhost-net", "the kernel can carry packets of tap devices by itself",
              "the kernel cannot carry packets of tap devices by itself", "vhost_net"),
       device(host, "vhost-vsock", "/dev/vhost-vsock", "the kernel can carry vsock connections",
              "no vsock by the kernel", "vhost_vsock")}};
}

Section check_sandbox(const Host& host) {
  return {"Confinement", {user_namespaces(host)}};
}

}  // namespace ostler::doctor
