// x87 instructions. Arithmetic, loads and stores run on the host's x87 unit on the guest's state (FXRSTOR,
// the instruction, FXSAVE); what only moves control state is done here. SDM Vol. 1 §8, Vol. 2A.
//
// The instruction and data pointers are the guest's and kept here: FIP and FDP are set by every non-control
// instruction, FOP by those that end with an unmasked exception (§8.1.9.1), FCS and FDS always read 0.

#include <cstring>

#include "interp/operand.h"
#include "interp/vector.h"
#include "interp/vector_emit.h"
#include "interp/vector_families.h"
#include "interp/vector_stub.h"
#include "interp/x87.h"
#include "interp/x87_environment.h"

namespace ostler::interp {

using mmu::Access;
using x86::FxState;
using x86::Instruction;
using x86::MemoryAccess;
using x86::VectorClass;
using x86::VectorInfo;

namespace {

void check_x87(const Cpu& cpu) {
  check_mmx_or_x87(cpu, VectorClass::kX87);
}

void execute_wait(Cpu& cpu, const Op*) {
  constexpr uint64_t kBoth = x86::cr0::kMp | x86::cr0::kTs;
  if ((cpu.s.cr0 & kBoth) == kBoth) x86::raise(x86::Vector::kNm);
  check_fpu_error(cpu);
}

void execute_fldcw(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  check_fpu_error(cpu);
  cpu.s.fx.fcw = x87_control_word(cpu.mmu.read<uint16_t>(cpu.linear(*op, 2, Access::kRead)));
  update_fpu_summary(cpu.s.fx);
}

void execute_fnstcw(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  cpu.mmu.write<uint16_t>(cpu.linear(*op, 2, Access::kWrite), cpu.s.fx.fcw);
}

void execute_fnstsw(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  cpu.mmu.write<uint16_t>(cpu.linear(*op, 2, Access::kWrite), cpu.s.fx.fsw);
}

void execute_fnstsw_ax(Cpu& cpu, const Op*) {
  check_x87(cpu);
  cpu.set_reg<uint16_t>(x86::kRax * 8, cpu.s.fx.fsw);
}

void execute_fnclex(Cpu& cpu, const Op*) {
  check_x87(cpu);
  cpu.s.fx.fsw &= 0x7f00;
}

void execute_fninit(Cpu& cpu, const Op*) {
  check_x87(cpu);
  x87_initialize(cpu.s.fx);
}

void execute_fnstenv(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  const X87Format format = x87_format(cpu, op->insn);
  uint8_t image[28];
  x87_store_environment(cpu.s.fx, format, image);
  const unsigned size = format.environment_size();
  cpu.mmu.write_bytes(cpu.linear(*op, size, Access::kWrite), {image, size});
  cpu.s.fx.fcw |= fpu::kExceptions;
  update_fpu_summary(cpu.s.fx);
}

void execute_fldenv(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  check_fpu_error(cpu);
  const X87Format format = x87_format(cpu, op->insn);
  uint8_t image[28];
  const unsigned size = format.environment_size();
  cpu.mmu.read_bytes(cpu.linear(*op, size, Access::kRead), {image, size});
  x87_load_environment(cpu.s.fx, format, image);
}

void execute_fnsave(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  const X87Format format = x87_format(cpu, op->insn);
  uint8_t image[108];
  const unsigned environment = format.environment_size();
  x87_store_environment(cpu.s.fx, format, image);
  for (unsigned i = 0; i < 8; ++i) std::memcpy(image + environment + i * 10, cpu.s.fx.st[i], 10);
  const unsigned size = environment + 80;
  cpu.mmu.write_bytes(cpu.linear(*op, size, Access::kWrite), {image, size});
  x87_initialize(cpu.s.fx);
}

void execute_frstor(Cpu& cpu, const Op* op) {
  check_x87(cpu);
  check_fpu_error(cpu);
  const X87Format format = x87_format(cpu, op->insn);
  uint8_t image[108];
  const unsigned environment = format.environment_size(), size = environment + 80;
  cpu.mmu.read_bytes(cpu.linear(*op, size, Access::kRead), {image, size});
  x87_load_environment(cpu.s.fx, format, image);
  for (unsigned i = 0; i < 8; ++i) {
    std::memcpy(cpu.s.fx.st[i], image + environment + i * 10, 10);
    std::memset(cpu.s.fx.st[i] + 10, 0, 6);
  }
}

template <void (*execute)(Cpu&, const Op*)>
const Op* run(Cpu& cpu, const Op* op) {
  execute(cpu, op);
  return next(cpu, op);
}

Handler control_handler(const Instruction& insn) {
  const unsigned reg = (insn.modrm >> 3) & 7;
  if (insn.modrm < 0xc0) {
    if (insn.opcode_byte == 0xd9) {
      switch (reg) {
        case 4:
          return run<execute_fldenv>;
        case 5:
          return run<execute_fldcw>;
        case 6:
          return run<execute_fnstenv>;
        case 7:
          return run<execute_fnstcw>;
        default:
          return nullptr;
      }
    }
    if (insn.opcode_byte == 0xdd) {
      switch (reg) {
        case 4:
          return run<execute_frstor>;
        case 6:
          return run<execute_fnsave>;
        case 7:
          return run<execute_fnstsw>;
        default:
          return nullptr;
      }
    }
    return nullptr;
  }
  if (insn.opcode_byte == 0xdb && insn.modrm == 0xe2) return run<execute_fnclex>;
  if (insn.opcode_byte == 0xdb && insn.modrm == 0xe3) return run<execute_fninit>;
  if (insn.opcode_byte == 0xdf && insn.modrm == 0xe0) return run<execute_fnstsw_ax>;
  return nullptr;
}

}  // namespace

void x87_set_pointers(Cpu& cpu, const Op* op, bool memory) {
  cpu.s.fx.fip = x87_instruction_pointer(cpu, cpu.current_rip(*op));
  if (memory) cpu.s.fx.fdp = x87_data_pointer(cpu, op->insn.segment, cpu.effective_offset(*op));
}

void x87_execute_on_host(Cpu& cpu, const Op* op) {
  const StubHeader& stub = StubArena::instance().at(op->data);
  const VectorInfo& info = stub.info;
  check_x87(cpu);
  if (info.waits) check_fpu_error(cpu);

  struct alignas(64) Image {
    FxState fx;
    uint8_t rest[512 - sizeof(FxState)];
  } image;
  image.fx = cpu.s.fx;
  image.fx.mxcsr = 0x1f80;
  // Still pending: CR0.NE is clear and the outside world was told. The instruction goes on as with IGNNE#
  // asserted, under masks for what is pending, since the host would stop here.
  const auto ignored = static_cast<uint16_t>(image.fx.fsw & ~image.fx.fcw & fpu::kExceptions);
  image.fx.fcw |= ignored;

  VectorBuffer buffer;
  void* memory = nullptr;
  const bool store = info.access == MemoryAccess::kWrite;
  if (store) {
    memory = buffer.bytes;
  } else if (stub.rm == Slot::kMemory) {
    const uint64_t linear = x87_linear(cpu, op, info.memory_size, Access::kRead);
    memory = const_cast<void*>(read_memory(cpu, linear, info.memory_size, buffer));  // the stub only reads
  }

  StubFrame frame;
  frame.flags_ax = cpu.s.flags_ax;
  if (stub.code(&image, nullptr, memory, nullptr, &frame) != StubFault::kNone) x86::raise(x86::Vector::kUd);

  image.fx.fcw &= static_cast<uint16_t>(~ignored);
  update_fpu_summary(image.fx);
  const unsigned unmasked = image.fx.fsw & ~image.fx.fcw & fpu::kExceptions;
  constexpr unsigned kPrecision = 1u << 5;
  // A store with an unmasked exception other than precision does not take place, so it cannot fault either.
  if (store && (unmasked & ~ignored & ~kPrecision) == 0)
    cpu.mmu.write_bytes(x87_linear(cpu, op, info.memory_size, Access::kWrite),
                        {buffer.bytes, info.memory_size});

  const FxState before = cpu.s.fx;
  cpu.s.fx = image.fx;
  cpu.s.fx.mxcsr = before.mxcsr;
  cpu.s.fx.mxcsr_mask = before.mxcsr_mask;
  cpu.s.fx.fop = before.fop;
  cpu.s.fx.fip = before.fip;
  cpu.s.fx.fdp = before.fdp;
  if (!info.x87_control) {
    x87_set_pointers(cpu, op, stub.rm == Slot::kMemory);
    if (unmasked != 0) cpu.s.fx.fop = static_cast<uint16_t>((op->insn.opcode_byte & 7) << 8 | op->insn.modrm);
  }
  if (info.writes_flags) cpu.s.flags_ax = frame.flags_ax;
}

Handler bind_x87(const Instruction& insn, uint32_t& data) {
  if (insn.opcode == x86::Opcode::kWait) return run<execute_wait>;
  if (const Handler handler = control_handler(insn)) return handler;
  data = x87_stub(insn);
  if (const Handler handler = bind_x87_move(insn)) return handler;
  return run<x87_execute_on_host>;
}

}  // namespace ostler::interp
