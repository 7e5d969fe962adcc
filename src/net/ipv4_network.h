// IPv4 networks of the host's interfaces.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace ostler::net {

// An address and its network's length. Numbers are in the host's byte order.
struct Ipv4Network {
  uint32_t address = 0;
  unsigned bits = 24;

  // "10.1.2.1/24", of 1 to 30 bits; without a length, 24.
  static Result<Ipv4Network> parse(const std::string& text);
  uint32_t mask() const { return ~uint32_t{0} << (32 - bits); }
  bool overlaps(const Ipv4Network& other) const {
    const uint32_t both = mask() & other.mask();
    return (address & both) == (other.address & both);
  }
  std::string text() const;   // "10.1.2.0/24"
  std::string first() const;  // of the addresses for others than the host, which has the first
  std::string last() const;
};

// "10.x.y.1/24" that no interface of this host lies in; the same for the same `seed` as far as possible.
Result<std::string> free_network(uint64_t seed);

}  // namespace ostler::net
