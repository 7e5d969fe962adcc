// SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM Vol. 2; AMD APM Vol. 2 §6.1). Where the vendors differ, the CPU
// model's vendor decides: Intel has SYSCALL in 64-bit mode only, AMD has SYSENTER outside long mode only.
#include "interp/system/handlers.h"
#include "x86/cpu_model.h"

namespace ostler::interp {

using x86::CpuState;
using x86::Segment;
using x86::Vector;
namespace rflags = x86::rflags;

namespace {

constexpr uint32_t kCode64 = 0xa09b, kCode32 = 0xc09b, kData = 0xc093;

Segment flat(uint16_t selector, uint32_t attributes, unsigned level) {
  return {0, 0xffffffff, attributes | level << 5, static_cast<uint16_t>((selector & ~3u) | level)};
}

void load_flat(CpuState& s, uint16_t cs, uint32_t code, uint16_t ss, unsigned level) {
  s.seg[x86::kCs] = flat(cs, code, level);
  s.seg[x86::kSs] = flat(ss, kData, level);
}

}  // namespace

const Op* syscall(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  if ((s.msr.efer & x86::efer::kSce) == 0) x86::raise(Vector::kUd);
  if (cpu.model.amd() ? !s.protected_mode() : !s.code64()) x86::raise(Vector::kUd);
  const uint64_t return_rip = cpu.next_rip(*op);
  const uint16_t selector = static_cast<uint16_t>(s.msr.star >> 32);
  s.gpr[x86::kRcx] = return_rip;
  if (s.long_mode()) {
    s.gpr[x86::kR11] = s.rflags() & ~rflags::kRf;
    s.rip = s.code64() ? s.msr.lstar : s.msr.cstar;
    s.set_rflags(s.rflags() & ~(s.msr.sfmask | rflags::kRf));
    load_flat(s, selector & 0xfffc, kCode64, static_cast<uint16_t>((selector & 0xfffc) + 8), 0);
  } else {
    s.rip = static_cast<uint32_t>(s.msr.star);
    s.flags_rest &= ~(rflags::kIf | rflags::kVm | rflags::kRf);
    load_flat(s, selector & 0xfffc, kCode32, static_cast<uint16_t>((selector & 0xfffc) + 8), 0);
  }
  cpu.mode_changed();
  return nullptr;
}

const Op* sysret(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  if ((s.msr.efer & x86::efer::kSce) == 0) x86::raise(Vector::kUd);
  if (cpu.model.amd() ? !s.protected_mode() : !s.code64()) x86::raise(Vector::kUd);
  require_ring0(cpu);
  const uint16_t selector = static_cast<uint16_t>(s.msr.star >> 48);
  const bool to64 = op->insn.operand_size == 8;
  // Intel checks here; AMD finds out at the first fetch, in ring 3, where our fetch finds it as well.
  if (to64 && !cpu.model.amd() && !cpu.canonical(s.gpr[x86::kRcx])) x86::raise(Vector::kGp, 0);
  s.rip = to64 ? s.gpr[x86::kRcx] : static_cast<uint32_t>(s.gpr[x86::kRcx]);
  if (s.long_mode()) {
    constexpr uint64_t kRestored = 0x3c7fd7;  // all but RF, VM and reserved bits
    s.set_rflags(s.gpr[x86::kR11] & kRestored);
  } else {
    s.flags_rest |= rflags::kIf;
  }
  if (to64)
    load_flat(s, static_cast<uint16_t>(selector + 16), kCode64, static_cast<uint16_t>(selector + 8), 3);
  else
    load_flat(s, selector, kCode32, static_cast<uint16_t>(selector + 8), 3);
  cpu.mode_changed();
  return nullptr;
}

const Op* sysenter(Cpu& cpu, const Op*) {
  CpuState& s = cpu.s;
  if (cpu.model.amd() && s.long_mode()) x86::raise(Vector::kUd);
  const uint16_t selector = static_cast<uint16_t>(s.msr.sysenter_cs & 0xfffc);
  if (!s.protected_mode() || selector == 0) x86::raise(Vector::kGp, 0);
  const bool wide = s.long_mode();
  s.rip = wide ? s.msr.sysenter_eip : static_cast<uint32_t>(s.msr.sysenter_eip);
  s.gpr[x86::kRsp] = wide ? s.msr.sysenter_esp : static_cast<uint32_t>(s.msr.sysenter_esp);
  s.flags_rest &= ~(rflags::kVm | rflags::kIf | rflags::kRf);
  load_flat(s, selector, wide ? kCode64 : kCode32, static_cast<uint16_t>(selector + 8), 0);
  cpu.mode_changed();
  return nullptr;
}

const Op* sysexit(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  if (cpu.model.amd() && s.long_mode()) x86::raise(Vector::kUd);
  const uint16_t selector = static_cast<uint16_t>(s.msr.sysenter_cs & 0xfffc);
  if (!s.protected_mode() || selector == 0) x86::raise(Vector::kGp, 0);
  require_ring0(cpu);
  const bool to64 = op->insn.operand_size == 8;
  const uint64_t rip = s.gpr[x86::kRdx], rsp = s.gpr[x86::kRcx];
  if (to64) {
    if (!cpu.canonical(rip) || !cpu.canonical(rsp)) x86::raise(Vector::kGp, 0);
    s.rip = rip;
    s.gpr[x86::kRsp] = rsp;
    load_flat(s, static_cast<uint16_t>(selector + 32), kCode64, static_cast<uint16_t>(selector + 40), 3);
  } else {
    s.rip = static_cast<uint32_t>(rip);
    s.gpr[x86::kRsp] = static_cast<uint32_t>(rsp);
    load_flat(s, static_cast<uint16_t>(selector + 16), kCode32, static_cast<uint16_t>(selector + 24), 3);
  }
  cpu.mode_changed();
  return nullptr;
}

}  // namespace ostler::interp
