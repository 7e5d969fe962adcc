// Calls into devices. While they run, the vCPU is not "running" for its group: devices take locks and remap
// memory, which waits for running vCPUs (mmu/vcpu_group.h).
#pragma once

#include <utility>

#include "interp/cpu.h"

namespace ostler::interp {

template <class Call>
auto outside_guest(Cpu& cpu, Call&& call) {
  struct Guard {
    mmu::Participant& participant;
    explicit Guard(mmu::Participant& p) : participant(p) { participant.leave_running(); }
    ~Guard() { participant.enter_running(); }
  };
  const Guard guard(cpu.mmu.participant());
  return std::forward<Call>(call)();
}

inline uint32_t read_port(Cpu& cpu, uint16_t port, unsigned size) {
  return outside_guest(cpu, [&] { return cpu.env.port_read(port, size); });
}
inline void write_port(Cpu& cpu, uint16_t port, unsigned size, uint32_t value) {
  outside_guest(cpu, [&] { cpu.env.port_write(port, size, value); });
}

}  // namespace ostler::interp
