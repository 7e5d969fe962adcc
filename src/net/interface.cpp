#include "net/interface.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "net/ipv4_network.h"

namespace ostler::net {
namespace {

// The socket that requests about interfaces go through.
Result<Fd> control() {
  Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_error("cannot ask the kernel about interfaces", errno);
  return fd;
}

ifreq request(const std::string& name) {
  ifreq asked{};
  std::memcpy(asked.ifr_name, name.data(), std::min(name.size(), sizeof asked.ifr_name - 1));
  return asked;
}

}  // namespace

bool valid_interface_name(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](char c) { return c == '/' || c == ':' || c <= ' '; });
}

unsigned interface_index(const std::string& name) {
  return if_nametoindex(name.c_str());
}

bool is_bridge(const std::string& name) {
  // Only a bridge answers the question for its ports.
  const auto fd = control();
  if (!fd || interface_index(name) == 0) return false;
  constexpr unsigned long kGetPortList = 7;  // BRCTL_GET_PORT_LIST
  int ports[1] = {};
  unsigned long words[4] = {kGetPortList, reinterpret_cast<unsigned long>(ports), 1, 0};
  ifreq asked = request(name);
  asked.ifr_data = reinterpret_cast<char*>(words);
  return ::ioctl(fd->get(), SIOCDEVPRIVATE, &asked) >= 0;
}

std::string hardware_address(const std::string& name) {
  const auto fd = control();
  ifreq asked = request(name);
  if (!fd || ::ioctl(fd->get(), SIOCGIFHWADDR, &asked) != 0) return "";
  std::array<uint8_t, 6> bytes{};
  std::memcpy(bytes.data(), asked.ifr_hwaddr.sa_data, bytes.size());
  return fmt::format("{:02x}", fmt::join(bytes, ":"));
}

Result<void> make_bridge(const std::string& name) {
  TRY_ASSIGN(const Fd fd, control());
  if (::ioctl(fd.get(), SIOCBRADDBR, name.c_str()) != 0)
    return errno_error(fmt::format("cannot make the bridge {}", name), errno);
  return {};
}

Result<void> remove_bridge(const std::string& name) {
  TRY_ASSIGN(const Fd fd, control());
  TRY(set_up(name, false));
  if (::ioctl(fd.get(), SIOCBRDELBR, name.c_str()) != 0)
    return errno_error(fmt::format("cannot remove the bridge {}", name), errno);
  return {};
}

Result<void> join_bridge(const std::string& bridge, const std::string& member) {
  TRY_ASSIGN(const Fd fd, control());
  ifreq asked = request(bridge);
  asked.ifr_ifindex = static_cast<int>(interface_index(member));
  if (::ioctl(fd.get(), SIOCBRADDIF, &asked) != 0)
    return errno_error(fmt::format("cannot connect {} to the bridge {}", member, bridge), errno);
  return {};
}

Result<void> set_up(const std::string& name, bool up) {
  TRY_ASSIGN(const Fd fd, control());
  ifreq asked = request(name);
  if (::ioctl(fd.get(), SIOCGIFFLAGS, &asked) != 0)
    return errno_error(fmt::format("there is no interface {}", name), errno);
  const int flags = up ? asked.ifr_flags | IFF_UP : asked.ifr_flags & ~IFF_UP;
  if (flags == asked.ifr_flags) return {};
  asked.ifr_flags = static_cast<short>(flags);
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &asked) != 0)
    return errno_error(fmt::format("cannot switch {} {}", name, up ? "on" : "off"), errno);
  return {};
}

Result<void> set_address(const std::string& name, const std::string& address) {
  TRY_ASSIGN(const Ipv4Network network, Ipv4Network::parse(address));
  TRY_ASSIGN(const Fd fd, control());
  const auto set = [&](unsigned long what, in_addr value) {
    ifreq asked = request(name);
    auto* const place = reinterpret_cast<sockaddr_in*>(&asked.ifr_addr);
    place->sin_family = AF_INET;
    place->sin_addr = value;
    return ::ioctl(fd.get(), what, &asked) == 0;
  };
  if (!set(SIOCSIFADDR, {htonl(network.address)}) || !set(SIOCSIFNETMASK, {htonl(network.mask())}))
    return errno_error(fmt::format("cannot give {} the address {}", name, address), errno);
  return {};
}

}  // namespace ostler::net
