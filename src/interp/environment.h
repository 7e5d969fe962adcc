// What the interpreter asks of the machine around it. Called on the vCPU's thread.
#pragma once

#include <cstdint>
#include <optional>

#include "x86/hypercall.h"

namespace ostler::x86 {
struct VcpuInfo;
}

namespace ostler::interp {

class Environment {
 public:
  virtual ~Environment() = default;
  virtual uint32_t port_read(uint16_t port, unsigned size) = 0;
  virtual void port_write(uint16_t port, unsigned size, uint32_t value) = 0;
  virtual uint64_t tsc() = 0;                          // guest TSC: host TSC + MSR offset
  virtual void tsc_changed() {}                        // CpuState::msr.tsc_offset was changed by the guest
  virtual const x86::VcpuInfo& vcpu_info() const = 0;  // constant; for CPUID
  virtual uint8_t cr8() = 0;
  virtual void set_cr8(uint8_t value) = 0;
  // MSRs that live outside the CPU state: local APIC, KVM paravirtual. nullopt, false: #GP.
  virtual std::optional<uint64_t> read_msr(uint32_t index) = 0;
  virtual bool write_msr(uint32_t index, uint64_t value) = 0;
  // VMCALL, VMMCALL under the KVM leaves: result for RAX.
  virtual uint64_t hypercall(const x86::Hypercall& call) = 0;
  // An external interrupt's vector (INTA cycle), none if it went away.
  virtual std::optional<uint8_t> acknowledge_interrupt() = 0;
  // FERR#: an unmasked x87 exception is pending at a waiting instruction and CR0.NE is clear. The machine
  // raises IRQ 13; the instruction goes on, as with IGNNE# asserted.
  virtual void fpu_error() {}
};

}  // namespace ostler::interp
