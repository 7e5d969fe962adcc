// Ports of TCP and UDP as people write them: numbers, or names of services.
#pragma once

#include <charconv>
#include <string_view>

namespace ostler {

// Whether `port` may be given to getaddrinfo(), which takes the low 16 bits of a number that no port has.
inline bool may_be_port(std::string_view port) {
  if (port.empty() || port.find_first_not_of("0123456789") != std::string_view::npos) return true;
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  return error == std::errc() && number <= 65535;
}

}  // namespace ostler
