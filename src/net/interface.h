// Network interfaces of the host by their names: bridges, addresses, flags. Each call is one or two requests
// to the kernel and needs CAP_NET_ADMIN, but for the questions.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace ostler::net {

// 0: there is none.
unsigned interface_index(const std::string& name);
bool is_bridge(const std::string& name);
// "52:54:00:12:34:56"; "": there is none.
std::string hardware_address(const std::string& name);

Result<void> make_bridge(const std::string& name);
Result<void> remove_bridge(const std::string& name);
Result<void> join_bridge(const std::string& bridge, const std::string& member);
Result<void> set_up(const std::string& name, bool up);
// "10.1.2.1/24": the interface's first IPv4 address.
Result<void> set_address(const std::string& name, const std::string& address);

// A name that the kernel takes: 1 to 15 bytes, no '/' and no space.
bool valid_interface_name(const std::string& name);

}  // namespace ostler::net
