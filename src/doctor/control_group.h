// What the control groups of this process allow it (the kernel's Documentation/admin-guide/cgroup-v2.rst and
// cgroup-v1/): the tightest limit among its group and the groups above.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "doctor/host.h"

namespace ostler::doctor {

// A controller and its files, as versions 2 and 1 call them.
struct Controller {
  std::string_view name;       // of version 1's hierarchy
  std::string_view limit[2];   // file
  std::string_view in_use[2];  // file
};
inline constexpr Controller kMemoryController{
    "memory", {"memory.max", "memory.limit_in_bytes"}, {"memory.current", "memory.usage_in_bytes"}};
inline constexpr Controller kPidsController{
    "pids", {"pids.max", "pids.max"}, {"pids.current", "pids.current"}};

struct GroupLimit {
  uint64_t limit = 0, in_use = 0;  // in the controller's unit
  std::string file;                // the limit's
  uint64_t left() const { return limit - (in_use < limit ? in_use : limit); }
};

// Nothing: no limit, as far as it can be seen.
std::optional<GroupLimit> tightest_limit(const Host& host, const Controller& controller);
// Why limits cannot be seen; empty: they can.
std::string groups_unseen(const Host& host);

}  // namespace ostler::doctor
