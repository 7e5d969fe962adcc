// Vector, MMX and x87 instructions: the choice of handlers, and those that run a host stub (vector_stub.h).
// SDM Vol. 2; exceptions Vol. 2A §2.4, SIMD floating-point exceptions Vol. 1 §11.5.

#include "interp/vector.h"

#include <cstring>

#include "interp/operand.h"
#include "interp/vector_emit.h"
#include "interp/vector_families.h"
#include "interp/vector_stub.h"

namespace ostler::interp {

using mmu::Access;
using x86::Instruction;
using x86::MemoryAccess;
using x86::OperandKind;
using x86::Vector;
using x86::VectorClass;
using x86::VectorInfo;

void raise_unavailable(const Cpu& cpu, VectorClass vector_class) {
  const x86::CpuState& s = cpu.s;
  switch (vector_class) {
    case VectorClass::kAvx:
      if (!s.protected_mode() || s.v8086() || (s.cr4 & x86::cr4::kOsxsave) == 0 || (s.xcr0 & 6) != 6)
        x86::raise(Vector::kUd);
      break;
    case VectorClass::kSse:
      if ((s.cr0 & x86::cr0::kEm) != 0 || (s.cr4 & x86::cr4::kOsfxsr) == 0) x86::raise(Vector::kUd);
      break;
    case VectorClass::kMmx:
      if ((s.cr0 & x86::cr0::kEm) != 0) x86::raise(Vector::kUd);
      break;
    default:
      break;
  }
  x86::raise(Vector::kNm);
}

namespace {

// The SIMD exception that ended a stub: #XM, or #UD for systems that did not ask for it.
[[noreturn]] void raise_stub_fault(Cpu& cpu, StubFault fault, const StubFrame& frame) {
  switch (fault) {
    case StubFault::kSimd:
      cpu.s.fx.mxcsr = frame.mxcsr;
      x86::raise((cpu.s.cr4 & x86::cr4::kOsxmmexcpt) != 0 ? Vector::kXm : Vector::kUd);
    case StubFault::kMemory:
      x86::raise(Vector::kGp, 0);
    default:
      x86::raise(Vector::kUd);
  }
}

void* slot_pointer(Cpu& cpu, const Op* op, Slot slot, uint8_t operand) {
  if (slot == Slot::kVector) return cpu.s.vec[operand == kImplicitXmm0 ? 0 : op->insn.operand[operand].index];
  if (slot == Slot::kMmx) return cpu.s.fx.st[op->insn.operand[operand].index];
  return nullptr;
}

struct Half {
  uint64_t word[2];
};
struct Full {
  uint64_t word[4];
};

// Where the instruction's memory operand can be read. The stub only reads it.
template <Ea ea>
[[gnu::always_inline]] inline void* read_operand(Cpu& cpu, const Op* op, const VectorInfo& info,
                                                 VectorBuffer& buffer) {
  const void* p = nullptr;
  if constexpr (ea != Ea::kGeneral) {
    const uint64_t address = flat_address<ea>(cpu, op);
    if ((address & (info.alignment - 1)) == 0) [[likely]] {
      switch (info.memory_size) {
        case 4:
          p = cpu.mmu.hit_read<uint32_t>(address);
          break;
        case 8:
          p = cpu.mmu.hit_read<uint64_t>(address);
          break;
        case 16:
          p = cpu.mmu.hit_read<Half>(address);
          break;
        case 32:
          p = cpu.mmu.hit_read<Full>(address);
          break;
        default:
          break;
      }
    }
  }
  if (p == nullptr) [[unlikely]] {
    const uint64_t linear = vector_linear(cpu, op, info.memory_size, info.alignment, Access::kRead);
    p = read_memory(cpu, linear, info.memory_size, buffer);
  }
  return const_cast<void*>(p);
}

// Vector registers, and memory that is read: no general registers, no flags.
template <bool avx, bool floating, bool memory, Ea ea>
[[gnu::noinline]] void execute_plain(Cpu& cpu, const Op* op) {
  const StubHeader& stub = StubArena::instance().at(op->data);
  if constexpr (avx) {
    check_avx(cpu);
  } else {
    check_sse(cpu);
  }
  VectorBuffer buffer;
  StubFrame frame;
  if constexpr (floating) frame.mxcsr = cpu.s.fx.mxcsr;
  void* rm;
  if constexpr (memory) {
    rm = read_operand<ea>(cpu, op, stub.info, buffer);
  } else {
    rm = slot_pointer(cpu, op, stub.rm, stub.rm_operand);
  }
  const StubFault fault = stub.code(
      slot_pointer(cpu, op, stub.reg, stub.reg_operand), slot_pointer(cpu, op, stub.vvvv, stub.vvvv_operand),
      rm, avx ? slot_pointer(cpu, op, stub.is4, stub.is4_operand) : nullptr, &frame);
  if (fault != StubFault::kNone) [[unlikely]]
    raise_stub_fault(cpu, fault, frame);
  if constexpr (floating) cpu.s.fx.mxcsr = frame.mxcsr;
}

template <bool avx, bool floating, bool memory, Ea ea>
const Op* run_plain(Cpu& cpu, const Op* op) {
  execute_plain<avx, floating, memory, ea>(cpu, op);
  return next(cpu, op);
}

template <bool avx, bool floating>
Handler plain_handler(bool memory, Ea ea) {
  if (!memory) return run_plain<avx, floating, false, Ea::kGeneral>;
  return by_ea(ea, []<Ea e>() -> Handler { return run_plain<avx, floating, true, e>; });
}

// The MMX operand of an SSE instruction is memory: processors then leave the x87 state alone.
bool touches_mmx(const StubHeader& stub) {
  return stub.reg == Slot::kMmx || stub.rm == Slot::kMmx;
}

// Everything: general registers, flags, MMX, stores.
[[gnu::noinline]] void execute_any(Cpu& cpu, const Op* op) {
  const StubHeader& stub = StubArena::instance().at(op->data);
  const VectorInfo& info = stub.info;
  const Instruction& insn = op->insn;
  check_class(cpu, info.vector_class);
  const bool mmx = touches_mmx(stub);
  if (mmx) check_fpu_error(cpu);

  VectorBuffer buffer;
  StubFrame frame;
  frame.mxcsr = cpu.s.fx.mxcsr;
  frame.flags_ax = cpu.s.flags_ax;
  if (info.reads_eax_edx) {
    frame.rax = cpu.s.gpr[x86::kRax];
    frame.rdx = cpu.s.gpr[x86::kRdx];
  }

  const bool store = info.access == MemoryAccess::kWrite;
  void* memory = nullptr;
  if (store) {
    memory = buffer.bytes;
  } else if (stub.rm == Slot::kMemory) {
    const uint64_t linear = vector_linear(cpu, op, info.memory_size, info.alignment, Access::kRead);
    memory = const_cast<void*>(read_memory(cpu, linear, info.memory_size, buffer));  // the stub only reads
  }
  if (stub.rm == Slot::kGpr) frame.rax = cpu.reg<uint64_t>(insn.operand[stub.rm_operand].index);
  // From here on the tags are MMX's, also when a SIMD exception follows. Registers are in physical order
  // either way, so a store that faults below only has to put the tags and TOP back.
  const x86::FxState before = cpu.s.fx;
  if (mmx) enter_mmx(cpu.s.fx);

  void* rm = memory != nullptr ? memory : slot_pointer(cpu, op, stub.rm, stub.rm_operand);
  const StubFault fault = stub.code(slot_pointer(cpu, op, stub.reg, stub.reg_operand),
                                    slot_pointer(cpu, op, stub.vvvv, stub.vvvv_operand), rm,
                                    slot_pointer(cpu, op, stub.is4, stub.is4_operand), &frame);
  if (fault != StubFault::kNone) [[unlikely]]
    raise_stub_fault(cpu, fault, frame);
  // Processors record the flags of VCVTPS2PH before its store can fault.
  if (info.simd_exceptions) cpu.s.fx.mxcsr = frame.mxcsr;

  if (store) {
    try {
      const uint64_t linear = vector_linear(cpu, op, info.memory_size, info.alignment, Access::kWrite);
      cpu.mmu.write_bytes(linear, {buffer.bytes, info.memory_size});
    } catch (const x86::Exception&) {
      if (mmx) cpu.s.fx = before;
      throw;
    }
  }
  if (info.writes_flags) cpu.s.flags_ax = frame.flags_ax;
  if (info.writes_ecx) cpu.set_reg<uint64_t>(x86::kRcx * 8, frame.rcx);
  const x86::Operand& destination = insn.operand[0];
  if (destination.kind == OperandKind::kMmx) mark_mmx_written(cpu.s.fx, destination.index);
  // The stub leaves the full register as the host defines it (32-bit results are zero-extended).
  if (destination.kind == OperandKind::kGpr) cpu.set_reg<uint64_t>(destination.index, frame.rax);
}

const Op* run_any(Cpu& cpu, const Op* op) {
  execute_any(cpu, op);
  return next(cpu, op);
}

Handler choose_stub_handler(const StubHeader& stub, Ea ea) {
  const VectorInfo& info = stub.info;
  const auto plain_slot = [](Slot slot) { return slot == Slot::kNone || slot == Slot::kVector; };
  const bool memory = stub.rm == Slot::kMemory;
  if (info.writes_flags || info.writes_ecx || info.reads_eax_edx || info.mmx ||
      info.access == MemoryAccess::kWrite || !plain_slot(stub.reg) || !(memory || plain_slot(stub.rm)))
    return run_any;
  const bool avx = info.vector_class == VectorClass::kAvx;
  if (info.simd_exceptions)
    return avx ? plain_handler<true, true>(memory, ea) : plain_handler<false, true>(memory, ea);
  return avx ? plain_handler<true, false>(memory, ea) : plain_handler<false, false>(memory, ea);
}

}  // namespace

Handler bind_vector(const Instruction& insn, const BindContext& context, uint32_t& data) {
  if (const Handler handler = bind_extended_state(insn)) return handler;
  const VectorInfo info = x86::vector_info(insn);
  if (insn.opcode == x86::Opcode::kWait || info.vector_class == VectorClass::kX87)
    return bind_x87(insn, data);
  if (info.vector_class == VectorClass::kNone) return nullptr;
  if (const Handler handler = bind_vector_control(insn)) return handler;
  if (const Handler handler = bind_vector_masked(insn, info)) return handler;
  if (const Handler handler = bind_vector_move(insn, info, context)) return handler;
  data = vector_stub(insn);
  return choose_stub_handler(StubArena::instance().at(data), addressing(insn, context));
}

}  // namespace ostler::interp
