// Delivery of exceptions and interrupts through the IVT, IDT or task gates, and the I/O permission check:
// what the run loop and the port instructions ask of the system family.
#pragma once

#include <cstdint>

#include "x86/exception.h"

namespace ostler::interp {

class Cpu;

enum class Delivered : uint8_t {
  kOk,        // the handler's first instruction is next
  kShutdown,  // a fault while delivering a double fault: CpuState::activity is kShutdown
};

// Delivers `exception`; s.rip is the instruction it belongs to (faults: that instruction; traps: the next
// one). Faults during delivery become double and triple faults here. Sets DR6, CR2, RF in the pushed flags.
Delivered deliver_exception(Cpu& cpu, const x86::Exception& exception);
// An external interrupt: `vector` came from Environment::acknowledge_interrupt(). s.rip is where it returns
// to.
Delivered deliver_interrupt(Cpu& cpu, uint8_t vector);
Delivered deliver_nmi(Cpu& cpu);

// Raises #GP(0) unless CPL <= IOPL or the task's I/O bitmap allows `size` bytes at `port` (SDM Vol. 1 §19.5).
void check_io_permission(Cpu& cpu, uint16_t port, unsigned size);

}  // namespace ostler::interp
