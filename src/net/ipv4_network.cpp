#include "net/ipv4_network.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <vector>

namespace ostler::net {
namespace {

std::string dotted(uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 0xff, address >> 8 & 0xff, address & 0xff);
}

uint32_t number_of(const sockaddr* from) {
  sockaddr_in address{};
  std::memcpy(&address, from, sizeof address);
  return ntohl(address.sin_addr.s_addr);
}

std::vector<Ipv4Network> networks_here() {
  std::vector<Ipv4Network> all;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return all;
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next)
    if (each->ifa_addr != nullptr && each->ifa_addr->sa_family == AF_INET && each->ifa_netmask != nullptr)
      all.push_back({number_of(each->ifa_addr),
                     std::max(1u, static_cast<unsigned>(std::popcount(number_of(each->ifa_netmask))))});
  ::freeifaddrs(list);
  return all;
}

}  // namespace

Result<Ipv4Network> Ipv4Network::parse(const std::string& text) {
  const size_t slash = text.find('/');
  Ipv4Network network;
  in_addr ip{};
  bool good = inet_pton(AF_INET, text.substr(0, slash).c_str(), &ip) == 1;
  if (slash != std::string::npos) {
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + slash + 1, end, network.bits);
    good = good && error == std::errc() && stop == end && network.bits >= 1 && network.bits <= 30;
  }
  if (!good)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("'{}' is not an address with its network's length (example: 10.10.0.1/24)", text));
  network.address = ntohl(ip.s_addr);
  return network;
}

std::string Ipv4Network::text() const {
  return fmt::format("{}/{}", dotted(address & mask()), bits);
}

std::string Ipv4Network::first() const {
  return dotted((address & mask()) + 2);
}

std::string Ipv4Network::last() const {
  return dotted((address | ~mask()) - 1);
}

Result<std::string> free_network(uint64_t seed) {
  const auto taken = networks_here();
  for (uint32_t step = 0; step < 0x4000; ++step) {
    // 10.64.0.0 to 10.127.255.0, where few look for their own networks.
    const Ipv4Network network{10u << 24 | 64u << 16 | static_cast<uint32_t>(seed + step) % 0x4000 << 8 | 1,
                              24};
    if (std::ranges::none_of(taken, [&](const Ipv4Network& each) { return each.overlaps(network); }))
      return dotted(network.address) + "/24";
  }
  return Error(ErrorKind::kNoResource, "this host has no free network for the bridge; give address=");
}

}  // namespace ostler::net
