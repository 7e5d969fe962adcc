#include "bt/routines.h"

#include <asmjit/x86.h>

#include "base/assert.h"
#include "bt/window.h"
#include "x86/host_cpu.h"

namespace ostler::bt {
namespace {

using namespace asmjit::x86;

constexpr size_t kRoutineBytes = 8192;

constexpr size_t at_gpr(unsigned n) {
  return offsetof(Hot, cpu) + offsetof(x86::CpuState, gpr) + n * 8;
}
constexpr size_t kMxcsrAt = offsetof(Hot, cpu) + offsetof(x86::CpuState, fx) + offsetof(x86::FxState, mxcsr);

Mem gs(size_t offset, uint32_t size) {
  Mem mem = ptr(offset, size);
#ifndef __clang_analyzer__  // which takes asmjit's operand for uninitialized
  mem.setSegment(asmjit::x86::gs);
  mem.setAbs();
#endif
  return mem;
}
Mem gs64(size_t offset) {
  return gs(offset, 8);
}
Mem gs_indexed(const Gp& index, unsigned shift, size_t offset) {
  Mem mem = ptr(static_cast<uint64_t>(offset), index, shift, 8);
#ifndef __clang_analyzer__  // which takes asmjit's operand for uninitialized
  mem.setSegment(asmjit::x86::gs);
  mem.setAbs();
#endif
  return mem;
}

class Maker {
 public:
  Maker(Assembler& a, bool avx) : a_(a), avx_(avx) {}

  void store_registers() {
    for (unsigned n = 0; n < 13; ++n) a_.mov(gs64(at_gpr(n)), gpq(n == 4 ? 13 : n));
  }
  void load_registers() {
    for (unsigned n = 0; n < 13; ++n) a_.mov(gpq(n == 4 ? 13 : n), gs64(at_gpr(n)));
  }
  void store_vectors() {
    for (unsigned n = 0; n < 16; ++n) {
      const size_t at = offsetof(Hot, cpu) + offsetof(x86::CpuState, vec) + n * 32;
      if (avx_)
        a_.vmovups(gs(at, 32), ymm(n));
      else
        a_.movups(gs(at, 16), xmm(n));
    }
    // C++ assumes the upper halves clear, for speed, and the default MXCSR.
    if (avx_) a_.vzeroupper();
    a_.stmxcsr(gs(kMxcsrAt, 4));
    a_.ldmxcsr(gs(offsetof(Hot, default_mxcsr), 4));
  }
  // Upper halves that are zero stay clear: once they have been written, each SSE instruction keeps its
  // destination's, and so waits for whatever wrote that before (Intel's optimization manual, §15.3; AMD's
  // processors do the same).
  void load_vectors() {
    const auto at = [](unsigned n) { return offsetof(Hot, cpu) + offsetof(x86::CpuState, vec) + n * 32; };
    asmjit::Label wide = a_.newLabel(), loaded = a_.newLabel();
    if (avx_) {
      a_.vmovups(xmm(0), gs(at(0) + 16, 16));
      for (unsigned n = 1; n < 16; ++n) a_.vorps(xmm(0), xmm(0), gs(at(n) + 16, 16));
      a_.vptest(xmm(0), xmm(0));
      a_.jnz(wide);
      a_.vzeroupper();
    }
    for (unsigned n = 0; n < 16; ++n) a_.movups(xmm(n), gs(at(n), 16));
    if (avx_) {
      a_.jmp(loaded);
      a_.bind(wide);
      for (unsigned n = 0; n < 16; ++n) a_.vmovups(ymm(n), gs(at(n), 32));
      a_.bind(loaded);
    }
    a_.ldmxcsr(gs(kMxcsrAt, 4));
  }
  void push_saved() {
    for (const Gp& r : {rbx, rbp, r12, r13, r14, r15}) a_.push(r);
    a_.sub(rsp, 8);
  }
  void pop_saved() {
    a_.add(rsp, 8);
    for (const Gp& r : {r15, r14, r13, r12, rbp, rbx}) a_.pop(r);
  }

 private:
  Assembler& a_;
  const bool avx_;
};

constexpr size_t tlb_at(TlbKind kind) {
  return kind == TlbKind::kUser ? Window::kUser : kind == TlbKind::kSup ? Window::kSup : Window::kAc;
}

}  // namespace

Result<Routines> make_routines(CodeCache& cache, MissFunction miss) {
  asmjit::CodeHolder code;
  const auto base = reinterpret_cast<uint64_t>(cache.executable(0));
  if (code.init(asmjit::Environment::host(), base) != asmjit::kErrorOk)
    return Error(ErrorKind::kUnsupported, "asmjit does not know this host");
  Assembler a(&code);
  Maker m(a, x86::HostCpu::current().features.has(x86::Feature::kAvx));
  Routines r;
  const auto here = [&] {
    a.align(asmjit::AlignMode::kCode, 16);
    return static_cast<Offset>(a.offset());
  };

  r.enter = here();
  m.push_saved();
  a.mov(gs64(offsetof(Hot, engine_rsp)), rsp);
  a.mov(rsp, gs64(offsetof(Hot, shadow_rsp)));
  a.mov(gs64(offsetof(Hot, scratch)), rdi);
  m.load_vectors();
  m.load_registers();
  a.mov(r14, gs64(offsetof(Hot, cpu) + offsetof(x86::CpuState, rip)));  // for shared code
  a.jmp(gs64(offsetof(Hot, scratch)));

  // Out of translated code: the reason is set; the guest's state goes to CpuState.
  asmjit::Label leave = a.newLabel(), left = a.newLabel();
  here();
  a.bind(leave);
  m.store_registers();
  m.store_vectors();
  a.mov(gs64(offsetof(Hot, shadow_rsp)), rsp);
  a.bind(left);
  a.mov(rsp, gs64(offsetof(Hot, engine_rsp)));
  m.pop_saved();
  a.ret();

  const auto exit = [&](Reason reason) {
    const Offset start = here();
    a.mov(gs64(offsetof(Hot, exit_value)), r14);
    a.mov(gs(offsetof(Hot, reason), 4), static_cast<uint32_t>(reason));
    a.jmp(leave);
    return start;
  };
  r.exit_link = exit(Reason::kLink);
  r.exit_poll = exit(Reason::kPoll);
  r.exit_interpret = exit(Reason::kInterpret);
  r.exit_lookup = exit(Reason::kLookup);
  r.host_fault = here();
  a.mov(gs(offsetof(Hot, reason), 4), static_cast<uint32_t>(Reason::kHostFault));
  a.jmp(leave);

  // RAX: what Runner::miss() says.
  asmjit::Label go_on = a.newLabel();
  here();
  a.bind(go_on);
  a.test(rax, rax);
  a.jz(left);
  a.mov(r15, rax);
  a.mov(rsi, gs64(offsetof(Hot, scratch)));
  a.movsxd(rax, dword_ptr(rsi, offsetof(MissInfo, resume)));
  a.add(rsi, rax);
  a.mov(gs64(offsetof(Hot, scratch)), rsi);
  m.load_vectors();
  a.mov(rsp, gs64(offsetof(Hot, shadow_rsp)));
  m.load_registers();
  a.jmp(gs64(offsetof(Hot, scratch)));

  for (unsigned kind = 0; kind < 3; ++kind) {
    for (unsigned write = 0; write < 2; ++write) {
      r.miss[kind][write] = here();
      const size_t tags =
          tlb_at(static_cast<TlbKind>(kind)) +
          (write != 0 ? offsetof(mmu::TlbArrays, write_tag) : offsetof(mmu::TlbArrays, read_tag));
      a.add(r14, gs_indexed(r15, 3, tags));  // the address again
      r.share_miss[kind][write] = static_cast<Offset>(a.offset());
      m.store_registers();
      a.pop(rsi);
      a.mov(gs64(offsetof(Hot, scratch)), rsi);
      a.mov(gs64(offsetof(Hot, shadow_rsp)), rsp);
      m.store_vectors();
      a.mov(rsp, gs64(offsetof(Hot, engine_rsp)));
      a.mov(rdi, gs64(offsetof(Hot, runner)));
      a.mov(rdx, r14);
      a.mov(rax, reinterpret_cast<uint64_t>(miss));
      a.call(rax);
      a.jmp(go_on);
    }
  }

  for (unsigned kind = 0; kind < 3; ++kind) {
    const size_t base_at = tlb_at(static_cast<TlbKind>(kind));
    r.window[kind] = here();
    asmjit::Label no = a.newLabel();
    a.mov(r15, r14);
    a.shr(r15, 12);
    a.and_(r15d, mmu::Tlb::kEntries - 1);
    a.and_(r14, -4096);
    a.cmp(r14, gs_indexed(r15, 3, base_at + offsetof(mmu::TlbArrays, write_tag)));
    a.jne(no);
    a.mov(gs64(offsetof(Hot, window_tag)), r14);
    a.mov(r15, gs_indexed(r15, 3, base_at + offsetof(mmu::TlbArrays, host)));
    a.sub(r15, r14);
    a.mov(gs64(offsetof(Hot, window_delta)), r15);
    a.cmp(r14, r14);
    a.bind(no);
    a.ret();
  }

  const auto lookup = [&](unsigned supervisor, bool mixed) {
    const size_t hash = Window::kHash + supervisor * Window::kHashBytes;
    const Offset start = here();
    a.mov(r15d, r14d);
    a.and_(r15d, Window::kHashEntries - 1);
    if (mixed) a.xor_(r15d, Window::kMixedSlot);
    a.shl(r15d, 4);
    Mem key = gs_indexed(r15, 0, hash), host = gs_indexed(r15, 0, hash + offsetof(HashEntry, host));
    a.cmp(key, r14);
    asmjit::Label unknown = a.newLabel();
    a.jne(unknown);
    a.jmp(host);
    a.bind(unknown);
    a.mov(gs64(offsetof(Hot, exit_value)), r14);
    a.mov(gs(offsetof(Hot, reason), 4), static_cast<uint32_t>(Reason::kLookup));
    a.jmp(leave);
    return start;
  };
  for (unsigned supervisor = 0; supervisor < 2; ++supervisor) {
    r.lookup[supervisor] = lookup(supervisor, false);
    r.lookup_mixed[supervisor] = lookup(supervisor, true);
    r.underflow[supervisor] = here();
    a.mov(rsp, gs64(offsetof(Hot, shadow_base) + supervisor * 8));
    a.jmp(base + r.lookup[supervisor]);
  }

  // SYSCALL and SYSRET (SDM Vol. 2), from and to 64-bit code with the usual segments. RCX and R11, which they
  // change anyway, are free once nothing can be refused any more.
  const auto cpu_at = [](size_t offset) { return offsetof(Hot, cpu) + offset; };
  const size_t msr_at = cpu_at(offsetof(x86::CpuState, msr));
  const size_t rest_at = cpu_at(offsetof(x86::CpuState, flags_rest));
  const size_t flags_at = cpu_at(offsetof(x86::CpuState, flags_ax));
  const auto set_segment = [&](x86::SegIndex index, const Gp& selector, uint32_t attributes) {
    const size_t at = cpu_at(offsetof(x86::CpuState, seg)) + index * sizeof(x86::Segment);
    a.mov(gs64(at + offsetof(x86::Segment, base)), 0);
    a.mov(gs(at + offsetof(x86::Segment, limit), 4), 0xffffffff);
    a.mov(gs(at + offsetof(x86::Segment, attributes), 4), attributes);
    a.mov(gs(at + offsetof(x86::Segment, selector), 2), selector.r16());
  };
  // Clobbers r15 and `from`.
  const auto set_flags = [&](const Gp& from) {
    a.mov(r15d, from.r32());
    a.and_(r15d, static_cast<int32_t>(~static_cast<uint32_t>(x86::rflags::kArithmetic)));
    a.or_(r15d, 2);
    a.mov(gs64(rest_at), r15);
    a.mov(r15d, from.r32());
    a.and_(r15d, 0xd5);
    a.or_(r15d, 2);
    a.mov(gs(flags_at + 1, 1), r15.r8());
    a.shr(from.r32(), 11);
    a.and_(from.r32(), 1);
    a.mov(gs(flags_at, 1), from.r8());
  };
  const auto change_privilege = [&](unsigned to) {
    a.mov(gs64(offsetof(Hot, other_rsp) + (1 - to) * 8), rsp);
    a.mov(rsp, gs64(offsetof(Hot, other_rsp) + to * 8));
    a.mov(r14, Hot::kNoWindow);
    a.mov(gs64(offsetof(Hot, window_tag)), r14);
    a.mov(gs64(offsetof(Hot, window_delta)), 0);
    a.mov(gs(offsetof(Hot, mode_changed), 4), 1);
  };
  constexpr uint32_t kCode64 = 0xa09b, kData = 0xc093, kRing3 = 3u << 5;
  {
    asmjit::Label refuse = a.newLabel();
    r.syscall = here();
    a.test(gs(msr_at + offsetof(x86::Msrs, efer), 1), static_cast<int>(x86::efer::kSce));
    a.jz(refuse);
    // The kernel's entry clears AC and TF; where it does not, the mode is another.
    a.mov(gs64(offsetof(Hot, scratch)), r15);
    a.mov(r15, gs64(msr_at + offsetof(x86::Msrs, sfmask)));
    a.not_(r15);
    a.test(r15d, static_cast<uint32_t>(x86::rflags::kAc | x86::rflags::kTf));
    a.jnz(refuse);
    a.mov(rcx, gs64(offsetof(Hot, scratch)));
    // R11 = RFLAGS without RF, which is clear while translated code runs.
    a.movzx(r11d, gs(flags_at, 1));
    a.shl(r11d, 11);
    a.movzx(r14d, gs(flags_at + 1, 1));
    a.and_(r14d, 0xd5);
    a.or_(r11d, r14d);
    a.or_(r11, gs64(rest_at));
    a.mov(r14, r11);
    a.and_(r14, r15);
    set_flags(r14);
    a.mov(r14, gs64(msr_at + offsetof(x86::Msrs, star)));
    a.shr(r14, 32);
    a.and_(r14d, 0xfffc);
    set_segment(x86::kCs, r14, kCode64);
    a.add(r14d, 8);
    set_segment(x86::kSs, r14, kData);
    change_privilege(1);
    a.mov(r14, gs64(msr_at + offsetof(x86::Msrs, lstar)));
    a.jmp(base + r.lookup[1]);
    a.bind(refuse);
    a.jmp(base + r.exit_interpret);
  }
  {
    asmjit::Label refuse = a.newLabel();
    r.sysret = here();
    a.test(gs(msr_at + offsetof(x86::Msrs, efer), 1), static_cast<int>(x86::efer::kSce));
    a.jz(refuse);
    // Single steps, alignment checks, addresses that are not canonical, and interrupts that wait.
    a.test(r11d, static_cast<uint32_t>(x86::rflags::kTf | x86::rflags::kAc));
    a.jnz(refuse);
    a.cmp(gs(offsetof(Hot, waiting), 4), 0);
    a.jne(refuse);
    a.mov(r15, rcx);
    a.shr(r15, 47);
    a.jnz(refuse);
    a.mov(r14d, r11d);
    a.and_(r14d, 0x3c7fd7);
    set_flags(r14);
    a.movzx(r14d, gs(msr_at + offsetof(x86::Msrs, star) + 6, 2));
    a.add(r14d, 16);
    a.or_(r14d, 3);
    set_segment(x86::kCs, r14, kCode64 | kRing3);
    a.movzx(r14d, gs(msr_at + offsetof(x86::Msrs, star) + 6, 2));
    a.add(r14d, 8);
    a.or_(r14d, 3);
    set_segment(x86::kSs, r14, kData | kRing3);
    change_privilege(0);
    a.mov(r14, rcx);
    a.jmp(base + r.lookup[0]);
    a.bind(refuse);
    a.jmp(base + r.exit_interpret);
  }

  if (code.flatten() != asmjit::kErrorOk || code.resolveUnresolvedLinks() != asmjit::kErrorOk ||
      code.relocateToBase(base) != asmjit::kErrorOk || code.codeSize() > kRoutineBytes ||
      code.copyFlattenedData(cache.writable(0), kRoutineBytes) != asmjit::kErrorOk)
    return Error(ErrorKind::kUnsupported, "the translator's routines could not be assembled");
  cache.reserve(kRoutineBytes, r.lookup[0]);
  return r;
}

}  // namespace ostler::bt
