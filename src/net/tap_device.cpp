#include "net/tap_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "base/log.h"
#include "net/endpoint.h"
#include "net/interface.h"
#include "net/run_program.h"

namespace ostler::net {
namespace {

constexpr const char* kTun = "/dev/net/tun";
// Of kernels newer than the headers here.
constexpr unsigned kTunUso4 = 0x20, kTunUso6 = 0x40;
constexpr unsigned long kTunSetCarrier = _IOW('T', 226, int);

unsigned tun_flags(Offloads offloads) {
  if ((offloads & kChecksum) == 0) return 0;
  unsigned flags = TUN_F_CSUM;
  if ((offloads & kTso4) != 0) flags |= TUN_F_TSO4;
  if ((offloads & kTso6) != 0) flags |= TUN_F_TSO6;
  if ((offloads & kTsoEcn) != 0 && (offloads & (kTso4 | kTso6)) != 0) flags |= TUN_F_TSO_ECN;
  if ((offloads & kUfo) != 0) flags |= TUN_F_UFO;
  if ((offloads & kUso) != 0) flags |= kTunUso4 | kTunUso6;
  return flags;
}

Error tun_error(int error) {
  if (error == EACCES || error == EPERM)
    return Error(ErrorKind::kPermission,
                 fmt::format("{0} may not be opened: sudo setfacl -m u:$USER:rw {0}", kTun), error);
  if (error == ENOENT || error == ENODEV || error == ENXIO)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{} is not there, so that there are no tap devices: sudo modprobe tun", kTun),
                 error);
  return errno_error(fmt::format("cannot open {}", kTun), error);
}

Error attach_error(const TapOptions& options, const std::string& name, int error) {
  const std::string device = name.empty() ? "tap0" : name;
  if (error == EPERM)
    return Error(
        ErrorKind::kPermission,
        fmt::format(
            "this user may not use the tap device {0}: 'sudo ip tuntap add dev {0} mode tap user "
            "$USER{1} && sudo ip link set {0} up' makes one for them, '{2}' lets this program make any",
            device, options.queues > 1 ? " multi_queue" : "", grant_command()),
        error);
  if (error == EBUSY)
    return Error(ErrorKind::kBusy,
                 fmt::format("the tap device {} is in use by another program; choose another name", device),
                 error);
  if (error == EINVAL)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{0} is no tap device with {1} queue pair{2}; choose another name, or: sudo ip link "
                    "del {0} && sudo ip tuntap add dev {0} mode tap user $USER{3}",
                    device, options.queues, options.queues == 1 ? "" : "s",
                    options.queues > 1 ? " multi_queue" : ""),
        error);
  return errno_error(fmt::format("cannot use the tap device {}", device), error);
}

// One queue of the device `name`, which is made when it is not there; the name that it has.
Result<Fd> attach_queue(const TapOptions& options, std::string& name, bool vnet_header) {
  Fd fd(::open(kTun, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return tun_error(errno);
  ifreq wish{};
  std::memcpy(wish.ifr_name, name.data(), std::min(name.size(), sizeof wish.ifr_name - 1));
  wish.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | (vnet_header ? IFF_VNET_HDR : 0) |
                                      (options.queues > 1 ? IFF_MULTI_QUEUE : 0));
  if (::ioctl(fd.get(), TUNSETIFF, &wish) != 0) return attach_error(options, name, errno);
  name = wish.ifr_name;
  return fd;
}

// A socket over which the helper sends the open device.
Result<Fd> receive_descriptor(const Fd& socket) {
  char byte = 0;
  iovec piece = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) > 0)
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each))
      if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(each), sizeof fd);
        return Fd(fd);
      }
  return Error(ErrorKind::kIo, "the bridge helper gave no tap device");
}

Result<Fd> ask_helper(const TapOptions& options) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_error("cannot talk to the bridge helper", errno);
  const Fd ours(pair[0]);
  const Fd theirs(pair[1]);
  auto done = run_program(
      {options.helper, "--use-vnet", fmt::format("--fd={}", theirs.get()), "--br=" + options.bridge},
      theirs.get());
  if (!done)
    return Error(
        done.error().kind(),
        fmt::format("{}; /etc/qemu/bridge.conf must say 'allow {}', and the helper must be setuid root: "
                    "sudo chmod u+s {}",
                    done.error().message(), options.bridge, options.helper));
  return receive_descriptor(ours);
}

Result<void> look_at(TapDevice& device, const TapOptions& options) {
  for (const Fd& queue : device.queues) {
    make_ours(queue);
    ifreq known{};
    if (::ioctl(queue.get(), TUNGETIFF, &known) != 0)
      return errno_error(fmt::format("descriptor {} is not a tap device", queue.get()), errno);
    const auto flags = static_cast<unsigned short>(known.ifr_flags);
    if ((flags & IFF_TAP) == 0 || (flags & IFF_NO_PI) == 0)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{} must be a tap device without packet information (IFF_TAP, IFF_NO_PI)",
                               known.ifr_name));
    device.name = known.ifr_name;
    device.vnet_header = (flags & IFF_VNET_HDR) != 0;
    const int sndbuf = options.sndbuf == 0 ? INT_MAX : static_cast<int>(options.sndbuf);
    if (device.vnet_header && !set_tap_header(queue, sizeof(VnetHeader)))
      return errno_error(fmt::format("cannot set the header of {}", device.name), errno);
    if (::ioctl(queue.get(), TUNSETSNDBUF, &sndbuf) != 0 && options.sndbuf != 0)
      return errno_error(fmt::format("sndbuf: {} takes no limit", device.name), errno);
  }
  if (options.vnet_hdr == config::OnOffAuto::kOn && !device.vnet_header)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("vnet_hdr: {} was opened without headers (IFF_VNET_HDR)", device.name));
  if (!device.vnet_header) return {};
  constexpr Offloads kAll = kChecksum | kTso4 | kTso6 | kTsoEcn | kUfo;
  for (const Offloads each : {kAll | kUso, kAll, kAll & ~uint32_t{kUfo}, Offloads{kChecksum}})
    if (device.offloads == 0 && set_tap_offloads(device.queues[0], each)) device.offloads = each;
  set_tap_offloads(device.queues[0], 0);
  return {};
}

Result<void> connect(const TapDevice& device, const TapOptions& options) {
  if (!options.script.empty()) {
    auto done = run_program({options.script, device.name});
    if (!done) return std::move(done).error().with_context("script (script=no leaves it out)");
  }
  if (options.bridge.empty() || !options.helper.empty()) return {};
  if (!is_bridge(options.bridge))
    return Error(
        ErrorKind::kNotFound,
        fmt::format("there is no bridge {0}: sudo ip link add {0} type bridge && sudo ip link set {0} up",
                    options.bridge));
  TRY(join_bridge(options.bridge, device.name));
  return set_up(device.name, true);
}

// The bridge is there, or is made; whoever may not do that asks the helper for one that is there.
Result<void> manage(TapDevice& device, TapOptions& options) {
  if (may_administer()) {
    TRY_ASSIGN(device.bridge,
               ManagedBridge::use(
                   {.name = options.bridge, .address = options.address, .nat = options.nat, .folder = {}}));
    options.helper.clear();
    return {};
  }
  if (interface_index(options.bridge) != 0) return {};
  return Error(
      ErrorKind::kPermission,
      fmt::format("there is no bridge {0}, and this user may not make one: '{1}' lets this program do "
                  "it, or once by hand: sudo ip link add {0} type bridge && sudo ip link set {0} up",
                  options.bridge, grant_command()));
}

}  // namespace

bool set_tap_offloads(const Fd& queue, Offloads offloads) {
  return ::ioctl(queue.get(), TUNSETOFFLOAD, static_cast<unsigned long>(tun_flags(offloads))) == 0;
}

bool set_tap_queue(const Fd& queue, bool on) {
  ifreq wish{};
  wish.ifr_flags = static_cast<short>(on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  return ::ioctl(queue.get(), TUNSETQUEUE, &wish) == 0;
}

void set_tap_carrier(const Fd& queue, bool up) {
  const int carrier = up ? 1 : 0;
  static_cast<void>(::ioctl(queue.get(), kTunSetCarrier, &carrier));  // kernels before 5.0 have none
}

bool set_tap_header(const Fd& queue, size_t bytes) {
  const int size = static_cast<int>(bytes);
  return ::ioctl(queue.get(), TUNSETVNETHDRSZ, &size) == 0;
}

void run_downscript(const TapDevice& device, const std::string& id) {
  if (device.downscript.empty()) return;
  if (const auto done = run_program({device.downscript, device.name}); !done)
    log::warning(fmt::format("network '{}': downscript: {}", id, done.error().message()));
}

Result<TapDevice> TapDevice::open(const TapOptions& wanted) {
  TapDevice device;
  TapOptions options = wanted;
  if (options.managed) TRY(manage(device, options));
  device.name = options.ifname;
  if (!device.name.empty() && !valid_interface_name(device.name))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("ifname: '{}' is not an interface's name", device.name));
  if (!options.fds.empty()) {
    for (const int fd : options.fds) device.queues.emplace_back(fd);
  } else if (!options.helper.empty()) {
    TRY_ASSIGN(Fd queue, ask_helper(options));
    device.queues.push_back(std::move(queue));
  } else {
    const bool header = options.vnet_hdr != config::OnOffAuto::kOff;
    for (unsigned i = 0; i < options.queues; ++i) {
      TRY_ASSIGN(Fd queue, attach_queue(options, device.name, header));
      device.queues.push_back(std::move(queue));
    }
  }
  TRY(look_at(device, options));
  TRY(connect(device, options));
  device.downscript = options.downscript;
  return device;
}

}  // namespace ostler::net
