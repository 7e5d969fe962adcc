// A vCPU on the translator, alone, whose parts tests can look into.
#pragma once

#include <initializer_list>

#include "team.h"

namespace ostler::bt {

struct Rig : Team, Member {
  explicit Rig(const Options& options) : Team(options), Member(static_cast<Team&>(*this), true) {}
  void code_at(uint64_t phys, std::initializer_list<uint8_t> bytes) { put(phys, bytes); }
};

// The block that begins with `bytes`, as the translator reads it.
inline GuestCode read_block(const std::vector<uint8_t>& bytes, const Options& options = {},
                            Mode mode = mode::kSupervisor | mode::kCpl0) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.start(0);
  rig.put(kText, bytes);
  GuestCode code;
  read_guest_code(*rig.mmu, rig.model, kText, kText, mode, options, code);
  return code;
}

}  // namespace ostler::bt
