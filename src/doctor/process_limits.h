// The limits of this process (getrlimit(2)), and whether they bind it.
#pragma once

#include <sys/resource.h>

#include "doctor/host.h"

namespace ostler::doctor {

struct Limit {
  rlim_t now = RLIM_INFINITY;   // soft
  rlim_t most = RLIM_INFINITY;  // hard: this user may raise `now` so far
};

struct ProcessLimits {
  Limit processes = {}, files = {}, locked_memory = {}, address_space = {};
  bool may_lock_more = false;   // a capability puts locked_memory out of force
  bool may_start_more = false;  // as processes, for the host's root

  static ProcessLimits current(const Host& host);
};

}  // namespace ostler::doctor
