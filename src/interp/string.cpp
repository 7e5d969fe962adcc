// MOVS CMPS STOS LODS SCAS INS OUTS (SDM Vol. 2), with REP. Registers are current after every iteration, so a
// fault or an interrupt leaves exactly what was done; repeated forms look for pending work after at most a
// page. MOVS and STOS that go upwards within a page of plain memory run as the host's own string instruction.
#include <algorithm>

#include "base/bytes.h"
#include "interp/delivery.h"
#include "interp/operand.h"
#include "interp/outside.h"

namespace ostler::interp {
namespace {

using mmu::Access;
using x86::Opcode;
using x86::SegIndex;

// The registers of a string instruction in its address size.
class Pointers {
 public:
  Pointers(Cpu& cpu, const Op* op) : cpu_(cpu), size_(op->insn.address_size), mask_(size_mask(size_)) {}

  uint64_t si() const { return cpu_.s.gpr[x86::kRsi] & mask_; }
  uint64_t di() const { return cpu_.s.gpr[x86::kRdi] & mask_; }
  uint64_t count() const { return cpu_.s.gpr[x86::kRcx] & mask_; }
  uint64_t mask() const { return mask_; }
  void advance_si(int64_t by) { set(x86::kRsi, cpu_.s.gpr[x86::kRsi] + static_cast<uint64_t>(by)); }
  void advance_di(int64_t by) { set(x86::kRdi, cpu_.s.gpr[x86::kRdi] + static_cast<uint64_t>(by)); }
  // With 32-bit addresses in 64-bit code, Intel's processors clear the upper halves of what a repeated
  // instruction loads before they look at the count or the memory.
  void touch_count() { reduce_count(0); }
  void touch_si() { advance_si(0); }
  void touch_di() { advance_di(0); }
  void reduce_count(uint64_t by) { set(x86::kRcx, cpu_.s.gpr[x86::kRcx] - by); }

 private:
  void set(x86::GprIndex index, uint64_t value) {
    const auto offset = static_cast<uint8_t>(index * 8);
    switch (size_) {
      case 2:
        cpu_.set_reg<uint16_t>(offset, static_cast<uint16_t>(value));
        break;
      case 4:
        cpu_.set_reg<uint32_t>(offset, static_cast<uint32_t>(value));
        break;
      default:
        cpu_.s.gpr[index] = value;
        break;
    }
  }
  Cpu& cpu_;
  unsigned size_;
  uint64_t mask_;
};

template <class T>
int64_t step_of(const Cpu& cpu) {
  return cpu.s.flag(x86::rflags::kDf) ? -static_cast<int64_t>(sizeof(T)) : static_cast<int64_t>(sizeof(T));
}

template <class T>
T read_at(Cpu& cpu, SegIndex segment, uint64_t offset) {
  return cpu.mmu.read<T>(cpu.linear(segment, offset, sizeof(T), Access::kRead));
}

// How many elements, at most `count`, starting at seg:offset lie in one page without wrapping the address
// size, upwards. 0 when that is for the slow path: downwards, across a page, or to be checked one by one.
template <class T>
uint64_t run_length(Cpu& cpu, SegIndex segment, uint64_t offset, uint64_t mask, uint64_t count, Access access,
                    uint64_t& linear) {
  if (cpu.single_step || cpu.s.flag(x86::rflags::kDf)) return 0;
  const uint64_t base =
      cpu.code_size != x86::CodeSize::k64 || segment >= x86::kFs ? cpu.s.seg[segment].base : 0;
  linear = offset + base;
  if (cpu.code_size != x86::CodeSize::k64) linear &= 0xffff'ffff;
  const uint64_t to_page_end = kPageSize - (linear & kPageMask);
  const uint64_t to_wrap = mask - offset;  // one less than the bytes left, which is safe
  const uint64_t run = std::min({count, to_page_end / sizeof(T), to_wrap / sizeof(T)});
  if (run == 0 || !cpu.range_allowed(segment, offset, static_cast<unsigned>(run * sizeof(T)), access))
    return 0;
  return run;
}

// A repeated instruction with iterations left: whether it has to be left for now.
bool interrupted(const Cpu& cpu) {
  return cpu.pending_.load(std::memory_order_relaxed) != 0;
}
const Op* resume_later(Cpu& cpu, const Op* op) {
  cpu.s.rip = cpu.current_rip(*op);
  return nullptr;
}
bool repeated(const Op* op) {
  return op->insn.rep || op->insn.repne;
}

template <class T>
void host_rep_movs(void* to, const void* from, uint64_t count) {
  if constexpr (sizeof(T) == 1) asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  if constexpr (sizeof(T) == 2) asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  if constexpr (sizeof(T) == 4) asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  if constexpr (sizeof(T) == 8) asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}
template <class T>
void host_rep_stos(void* to, T value, uint64_t count) {
  const uint64_t wide = value;
  if constexpr (sizeof(T) == 1) asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(wide) : "memory");
  if constexpr (sizeof(T) == 2) asm volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(wide) : "memory");
  if constexpr (sizeof(T) == 4) asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(wide) : "memory");
  if constexpr (sizeof(T) == 8) asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(wide) : "memory");
}

// ---- MOVS ----
template <class T>
void movs_once(Cpu& cpu, const Op* op, Pointers& at) {
  const T value = read_at<T>(cpu, op->insn.segment, at.si());
  cpu.mmu.write<T>(cpu.linear(x86::kEs, at.di(), sizeof(T), Access::kWrite), value);
  at.advance_si(step_of<T>(cpu));
  at.advance_di(step_of<T>(cpu));
}
// Several iterations at once; returns how many, 0 when it cannot.
template <class T>
uint64_t movs_run(Cpu& cpu, const Op* op, Pointers& at) {
  uint64_t from = 0;
  uint64_t to = 0;
  uint64_t run = run_length<T>(cpu, op->insn.segment, at.si(), at.mask(), at.count(), Access::kRead, from);
  if (run != 0) run = run_length<T>(cpu, x86::kEs, at.di(), at.mask(), run, Access::kWrite, to);
  if (run == 0) return 0;
  const auto* source = cpu.mmu.hit_read<T>(from);
  auto* target = cpu.mmu.hit_write<T>(to);
  if (source == nullptr || target == nullptr) return 0;
  host_rep_movs<T>(target, source, run);
  at.advance_si(static_cast<int64_t>(run * sizeof(T)));
  at.advance_di(static_cast<int64_t>(run * sizeof(T)));
  return run;
}
template <class T>
const Op* movs(Cpu& cpu, const Op* op) {
  Pointers at(cpu, op);
  if (!repeated(op)) {
    movs_once<T>(cpu, op, at);
    return next(cpu, op);
  }
  at.touch_count();
  at.touch_si();
  at.touch_di();
  while (at.count() != 0) {
    uint64_t done = movs_run<T>(cpu, op, at);
    if (done == 0) {
      movs_once<T>(cpu, op, at);
      done = 1;
    }
    at.reduce_count(done);
    if (at.count() != 0 && interrupted(cpu)) return resume_later(cpu, op);
  }
  return next(cpu, op);
}

// ---- STOS ----
template <class T>
void stos_once(Cpu& cpu, Pointers& at) {
  cpu.mmu.write<T>(cpu.linear(x86::kEs, at.di(), sizeof(T), Access::kWrite), cpu.reg<T>(0));
  at.advance_di(step_of<T>(cpu));
}
template <class T>
uint64_t stos_run(Cpu& cpu, Pointers& at) {
  uint64_t to = 0;
  const uint64_t run = run_length<T>(cpu, x86::kEs, at.di(), at.mask(), at.count(), Access::kWrite, to);
  if (run == 0) return 0;
  auto* target = cpu.mmu.hit_write<T>(to);
  if (target == nullptr) return 0;
  host_rep_stos<T>(target, cpu.reg<T>(0), run);
  at.advance_di(static_cast<int64_t>(run * sizeof(T)));
  return run;
}
template <class T>
const Op* stos(Cpu& cpu, const Op* op) {
  Pointers at(cpu, op);
  if (!repeated(op)) {
    stos_once<T>(cpu, at);
    return next(cpu, op);
  }
  at.touch_count();
  at.touch_di();
  while (at.count() != 0) {
    uint64_t done = stos_run<T>(cpu, at);
    if (done == 0) {
      stos_once<T>(cpu, at);
      done = 1;
    }
    at.reduce_count(done);
    if (at.count() != 0 && interrupted(cpu)) return resume_later(cpu, op);
  }
  return next(cpu, op);
}

// How many iterations of the slower instructions go between two looks at pending work.
constexpr unsigned kBatch = 256;

template <class T>
const Op* lods(Cpu& cpu, const Op* op) {
  Pointers at(cpu, op);
  const auto once = [&] {
    cpu.set_reg<T>(0, read_at<T>(cpu, op->insn.segment, at.si()));
    at.advance_si(step_of<T>(cpu));
  };
  if (!repeated(op)) {
    once();
    return next(cpu, op);
  }
  at.touch_count();
  for (unsigned i = 1; at.count() != 0; ++i) {
    once();
    at.reduce_count(1);
    if (at.count() != 0 && (i % kBatch == 0 || cpu.single_step) && interrupted(cpu))
      return resume_later(cpu, op);
  }
  return next(cpu, op);
}

// CMPS and SCAS set the flags only when they end or are interrupted: a fault in a later iteration leaves
// those from before the instruction (SDM Vol. 2, REP). The operand at rDI is read first.
template <class T, class Compare>
const Op* compare_string(Cpu& cpu, const Op* op, Compare&& compare) {
  uint16_t flags = cpu.s.flags_ax;
  Pointers at(cpu, op);
  if (!repeated(op)) {
    compare(at, flags);
  } else {
    at.touch_count();
    for (unsigned i = 1; at.count() != 0; ++i) {
      compare(at, flags);
      at.reduce_count(1);
      const bool equal = (flags & flags_ax::kZf) != 0;
      if (equal == op->insn.repne) break;
      if (at.count() != 0 && (i % kBatch == 0 || cpu.single_step) && interrupted(cpu)) {
        cpu.s.flags_ax = flags;
        return resume_later(cpu, op);
      }
    }
  }
  cpu.s.flags_ax = flags;
  return next(cpu, op);
}
template <class T>
const Op* cmps(Cpu& cpu, const Op* op) {
  return compare_string<T>(cpu, op, [&](Pointers& at, uint16_t& flags) {
    const T right = read_at<T>(cpu, x86::kEs, at.di());
    const T left = read_at<T>(cpu, op->insn.segment, at.si());
    alu<Alu::kCmp, T>(left, right, flags);
    at.advance_si(step_of<T>(cpu));
    at.advance_di(step_of<T>(cpu));
  });
}
template <class T>
const Op* scas(Cpu& cpu, const Op* op) {
  return compare_string<T>(cpu, op, [&](Pointers& at, uint16_t& flags) {
    const T right = read_at<T>(cpu, x86::kEs, at.di());
    alu<Alu::kCmp, T>(cpu.reg<T>(0), right, flags);
    at.advance_di(step_of<T>(cpu));
  });
}

// ---- INS, OUTS: memory is checked before the port is touched; every access is looked at afterwards ----
template <class T, class Once>
const Op* port_string(Cpu& cpu, const Op* op, Once&& once) {
  Pointers at(cpu, op);
  const auto port = cpu.reg<uint16_t>(x86::kRdx * 8);
  check_io_permission(cpu, port, sizeof(T));  // also when nothing is to be done
  if (repeated(op) && at.count() == 0) return next(cpu, op);
  for (;;) {
    once(at, port);
    cpu.check_io_breakpoints(port, sizeof(T));
    if (!repeated(op)) return next(cpu, op);
    at.reduce_count(1);
    if (at.count() == 0) return next(cpu, op);
    if (interrupted(cpu)) return resume_later(cpu, op);
  }
}
template <class T>
const Op* ins(Cpu& cpu, const Op* op) {
  return port_string<T>(cpu, op, [&](Pointers& at, uint16_t port) {
    const uint64_t address = cpu.linear(x86::kEs, at.di(), sizeof(T), Access::kWrite);
    cpu.mmu.probe(address, sizeof(T), Access::kWrite);
    cpu.mmu.write<T>(address, static_cast<T>(read_port(cpu, port, sizeof(T))));
    at.advance_di(step_of<T>(cpu));
  });
}
template <class T>
const Op* outs(Cpu& cpu, const Op* op) {
  return port_string<T>(cpu, op, [&](Pointers& at, uint16_t port) {
    const T value = read_at<T>(cpu, op->insn.segment, at.si());
    write_port(cpu, port, sizeof(T), value);
    at.advance_si(step_of<T>(cpu));
  });
}

}  // namespace

Handler bind_string(const x86::Instruction& insn, const BindContext&) {
  const unsigned size = insn.operand_size;
  switch (insn.opcode) {
    case Opcode::kMovs:
      return by_size(size, []<class T>() -> Handler { return movs<T>; });
    case Opcode::kStos:
      return by_size(size, []<class T>() -> Handler { return stos<T>; });
    case Opcode::kLods:
      return by_size(size, []<class T>() -> Handler { return lods<T>; });
    case Opcode::kCmps:
      return by_size(size, []<class T>() -> Handler { return cmps<T>; });
    case Opcode::kScas:
      return by_size(size, []<class T>() -> Handler { return scas<T>; });
    case Opcode::kIns:
      return size == 1 ? ins<uint8_t> : size == 2 ? ins<uint16_t> : ins<uint32_t>;
    case Opcode::kOuts:
      return size == 1 ? outs<uint8_t> : size == 2 ? outs<uint16_t> : outs<uint32_t>;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
