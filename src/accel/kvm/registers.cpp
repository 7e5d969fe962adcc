#include "accel/kvm/registers.h"

#include <algorithm>
#include <cstring>

namespace ostler::accel::kvm {
namespace {

using x86::CpuState;
using x86::Segment;

// In the order of GprIndex.
constexpr __u64 kvm_regs::*kGpr[16] = {&kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx,
                                       &kvm_regs::rsp, &kvm_regs::rbp, &kvm_regs::rsi, &kvm_regs::rdi,
                                       &kvm_regs::r8,  &kvm_regs::r9,  &kvm_regs::r10, &kvm_regs::r11,
                                       &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15};
// In the order of SegIndex.
constexpr kvm_segment kvm_sregs2::*kSegments[6] = {&kvm_sregs2::es, &kvm_sregs2::cs, &kvm_sregs2::ss,
                                                   &kvm_sregs2::ds, &kvm_sregs2::fs, &kvm_sregs2::gs};

// Of kvm_vcpu_events::interrupt.shadow.
constexpr uint8_t kShadowSti = 2;

Segment segment_of(const kvm_segment& in) {
  Segment out;
  out.base = in.base;
  out.limit = in.limit;
  out.selector = in.selector;
  out.attributes = (in.type & 15u) | (in.s & 1u) << 4 | (in.dpl & 3u) << 5 | (in.present & 1u) << 7 |
                   (in.avl & 1u) << 12 | (in.l & 1u) << 13 | (in.db & 1u) << 14 | (in.g & 1u) << 15 |
                   (in.unusable != 0 ? Segment::kUnusable : 0u);
  return out;
}

kvm_segment segment_of(const Segment& in) {
  const auto bit = [&](unsigned at) { return static_cast<uint8_t>(in.attributes >> at & 1); };
  kvm_segment out{};
  out.base = in.base;
  out.limit = in.limit;
  out.selector = in.selector;
  out.type = static_cast<uint8_t>(in.attributes & 15);
  out.s = bit(4);
  out.dpl = static_cast<uint8_t>(in.attributes >> 5 & 3);
  out.present = bit(7);
  out.avl = bit(12);
  out.l = bit(13);
  out.db = bit(14);
  out.g = bit(15);
  out.unusable = bit(16);
  return out;
}

bool pae_paging(const CpuState& cpu) {
  return (cpu.cr0 & x86::cr0::kPg) != 0 && (cpu.cr4 & x86::cr4::kPae) != 0 && !cpu.long_mode();
}

}  // namespace

void to_cpu(const kvm_regs& regs, CpuState& cpu) {
  for (unsigned i = 0; i < 16; ++i) cpu.gpr[i] = regs.*kGpr[i];
  cpu.rip = regs.rip;
  cpu.set_rflags(regs.rflags);
}

void from_cpu(const CpuState& cpu, kvm_regs& regs) {
  for (unsigned i = 0; i < 16; ++i) regs.*kGpr[i] = cpu.gpr[i];
  regs.rip = cpu.rip;
  regs.rflags = cpu.rflags();
}

void to_cpu(const kvm_sregs2& sregs, CpuState& cpu) {
  for (unsigned i = 0; i < 6; ++i) cpu.seg[i] = segment_of(sregs.*kSegments[i]);
  cpu.ldtr = segment_of(sregs.ldt);
  cpu.tr = segment_of(sregs.tr);
  cpu.gdtr = {sregs.gdt.base, sregs.gdt.limit};
  cpu.idtr = {sregs.idt.base, sregs.idt.limit};
  cpu.cr0 = sregs.cr0;
  cpu.cr2 = sregs.cr2;
  cpu.cr3 = sregs.cr3;
  cpu.cr4 = sregs.cr4;
  cpu.msr.efer = sregs.efer;
  if ((sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0)
    std::copy(std::begin(sregs.pdptrs), std::end(sregs.pdptrs), std::begin(cpu.pdpte));
}

void from_cpu(const CpuState& cpu, kvm_sregs2& sregs) {
  for (unsigned i = 0; i < 6; ++i) sregs.*kSegments[i] = segment_of(cpu.seg[i]);
  sregs.ldt = segment_of(cpu.ldtr);
  sregs.tr = segment_of(cpu.tr);
  sregs.gdt.base = cpu.gdtr.base;
  sregs.gdt.limit = cpu.gdtr.limit;
  sregs.idt.base = cpu.idtr.base;
  sregs.idt.limit = cpu.idtr.limit;
  sregs.cr0 = cpu.cr0;
  sregs.cr2 = cpu.cr2;
  sregs.cr3 = cpu.cr3;
  sregs.cr4 = cpu.cr4;
  sregs.efer = cpu.msr.efer;
  sregs.flags = pae_paging(cpu) ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0;
  std::copy(std::begin(cpu.pdpte), std::end(cpu.pdpte), std::begin(sregs.pdptrs));
}

void to_cpu(const kvm_debugregs& debug, CpuState& cpu) {
  std::copy(std::begin(debug.db), std::end(debug.db), cpu.dr.begin());
  cpu.dr[6] = debug.dr6;
  cpu.dr[7] = debug.dr7;
}

void from_cpu(const CpuState& cpu, kvm_debugregs& debug) {
  std::copy_n(cpu.dr.begin(), 4, std::begin(debug.db));
  debug.dr6 = cpu.dr[6];
  debug.dr7 = cpu.dr[7];
}

void to_image(const kvm_lapic_state& lapic, bus::ApicImage& image) {
  for (size_t i = 0; i < image.page.size(); ++i) std::memcpy(&image.page[i], lapic.regs + 16 * i, 4);
}

void from_image(const bus::ApicImage& image, kvm_lapic_state& lapic) {
  for (size_t i = 0; i < image.page.size(); ++i) std::memcpy(lapic.regs + 16 * i, &image.page[i], 4);
}

x86::Activity activity_of(uint32_t mp_state) {
  switch (mp_state) {
    case KVM_MP_STATE_HALTED:
      return x86::Activity::kHalted;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
      return x86::Activity::kWaitForSipi;
    default:
      return x86::Activity::kRunning;
  }
}

uint32_t mp_state_of(x86::Activity activity) {
  switch (activity) {
    case x86::Activity::kHalted:
      return KVM_MP_STATE_HALTED;
    case x86::Activity::kWaitForSipi:
      return KVM_MP_STATE_INIT_RECEIVED;
    default:
      return KVM_MP_STATE_RUNNABLE;
  }
}

void to_cpu(const kvm_vcpu_events& events, CpuState& cpu) {
  cpu.interrupt_shadow = events.interrupt.shadow != 0;
  cpu.nmi_blocked = events.nmi.masked != 0;
}

void from_cpu(const CpuState& cpu, kvm_vcpu_events& events) {
  events.interrupt.shadow = cpu.interrupt_shadow ? kShadowSti : 0;
  events.nmi.masked = cpu.nmi_blocked ? 1 : 0;
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
}

}  // namespace ostler::accel::kvm
