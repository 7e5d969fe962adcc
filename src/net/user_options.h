// -netdev user: what it may be told, from text to a plain struct.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "chardev/char_backend.h"
#include "config/property.h"

namespace ostler::net {

// hostfwd=[tcp|udp]:[host address]:host port-[guest address]:guest port
struct HostForward {
  bool udp = false;
  in_addr host{};          // any
  uint16_t host_port = 0;  // 0: the kernel chooses
  in_addr guest{};         // 0: the first DHCP address
  uint16_t guest_port = 0;
};

// guestfwd=[tcp]:[server address]:port-cmd:command, or -chardev:id
struct GuestForward {
  in_addr server{};
  uint16_t port = 0;
  std::string command;                     // "": a character device
  std::string chardev;                     // its id
  chardev::CharBackend* device = nullptr;  // who has looked that up puts it here
};

// Empty addresses: derived from the network, as the comments say.
struct UserOptions {
  std::string id;
  bool ipv4 = true;
  bool ipv6 = true;
  bool restrict_access = false;
  std::string net = "10.0.2.0/24";
  std::string host;       // network + 2
  std::string dhcpstart;  // network + 15
  std::string dns;        // network + 3
  std::string hostname;
  std::string domainname;
  std::string tftp;
  std::string bootfile;
  std::string ipv6_prefix = "fec0::";
  uint8_t ipv6_prefix_length = 64;
  std::string ipv6_host;  // prefix::2
  std::string ipv6_dns;   // prefix::3
  std::vector<std::string> dnssearch;
  std::vector<HostForward> host_forwards;
  std::vector<GuestForward> guest_forwards;

  // `values` may repeat hostfwd, guestfwd and dnssearch.
  static Result<UserOptions> parse(std::span<const config::KeyValue> values);
};

const config::PropertyTable<UserOptions>& user_properties();

Result<HostForward> parse_host_forward(std::string_view text);
Result<GuestForward> parse_guest_forward(std::string_view text);

}  // namespace ostler::net
