// A vCPU's state between x86::CpuState and KVM's structures, one function pair for each structure
// (Documentation/virt/kvm/api.rst). Pure: no calls are made here. What CpuState does not have is left alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "accel/kvm/request.h"
#include "bus/kernel_apics.h"
#include "x86/state.h"

namespace ostler::accel::kvm {

void to_cpu(const kvm_regs& regs, x86::CpuState& cpu);
void from_cpu(const x86::CpuState& cpu, kvm_regs& regs);

void to_cpu(const kvm_sregs2& sregs, x86::CpuState& cpu);
void from_cpu(const x86::CpuState& cpu, kvm_sregs2& sregs);

void to_cpu(const kvm_debugregs& debug, x86::CpuState& cpu);
void from_cpu(const x86::CpuState& cpu, kvm_debugregs& debug);

// The blocking of interrupts and NMIs; events under way are the engine's affair.
void to_cpu(const kvm_vcpu_events& events, x86::CpuState& cpu);
void from_cpu(const x86::CpuState& cpu, kvm_vcpu_events& events);

// A local APIC of the kernel's: its page of registers. IA32_APIC_BASE and the deadline travel elsewhere.
void to_image(const kvm_lapic_state& lapic, bus::ApicImage& image);
void from_image(const bus::ApicImage& image, kvm_lapic_state& lapic);
x86::Activity activity_of(uint32_t mp_state);
uint32_t mp_state_of(x86::Activity activity);

// An XSAVE area in standard form (SDM 1 §13.4). `components`: those that the guest may have, as in XCR0.
inline constexpr size_t kXsaveSize = 4096;
void xsave_to_cpu(std::span<const std::byte, kXsaveSize> area, x86::CpuState& cpu);
void xsave_from_cpu(const x86::CpuState& cpu, uint64_t components, std::span<std::byte, kXsaveSize> area);

// Every register of x86::Msrs that KVM keeps. The TSC's offset is not among them.
struct MsrField {
  uint32_t index;
  uint64_t* value;
  uint64_t mask;  // the bits that CpuState keeps
};
// All of them, in the order in which they are to be written.
std::vector<MsrField> msr_fields(x86::CpuState& cpu);

}  // namespace ostler::accel::kvm
