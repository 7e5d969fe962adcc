// How vCPUs are arranged in sockets, dies, cores and threads, and the APIC IDs that tell it: each level has a
// bit field of its own, wide enough for its count (SDM 3A §10.9).
#pragma once

#include <bit>
#include <cstdint>

namespace ostler::x86 {

struct Topology {
  uint32_t sockets = 1;
  uint32_t dies = 1;     // per socket
  uint32_t cores = 1;    // per die
  uint32_t threads = 1;  // per core

  struct Place {
    uint32_t socket, die, core, thread;
  };

  uint32_t logical_per_die() const { return cores * threads; }
  uint32_t logical_per_socket() const { return dies * cores * threads; }
  unsigned core_shift() const { return width(threads); }
  unsigned die_shift() const { return core_shift() + width(cores); }
  unsigned socket_shift() const { return die_shift() + width(dies); }

  // vCPUs are numbered thread by thread, core by core.
  Place place_of(uint32_t vcpu_index) const {
    return {.socket = vcpu_index / logical_per_socket(),
            .die = vcpu_index / logical_per_die() % dies,
            .core = vcpu_index / threads % cores,
            .thread = vcpu_index % threads};
  }
  uint32_t apic_id(uint32_t vcpu_index) const {
    const Place place = place_of(vcpu_index);
    return place.thread | place.core << core_shift() | place.die << die_shift() |
           place.socket << socket_shift();
  }

 private:
  static unsigned width(uint32_t count) { return static_cast<unsigned>(std::bit_width(count - 1)); }
};

}  // namespace ostler::x86
