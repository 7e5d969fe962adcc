// A vCPU on the translator, alone, whose parts tests can look into.
#pragma once

#include <initializer_list>

#include "team.h"

namespace ostler::bt {

struct Rig : Team, Member {
  explicit Rig(const Options& options) : Team(options), Member(static_cast<Team&>(*this), true) {}
  void code_at(uint64_t phys, std::initializer_list<uint8_t> bytes) { put(phys, bytes); }
};

}  // namespace ostler::bt
