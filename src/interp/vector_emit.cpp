// Field layout of vector instructions and the code of their stubs. Encodings: SDM Vol. 2A §2.1-2.3.
//
// Inside a stub: RDI, RSI, RDX, RCX point to the registers of ModRM.reg, VEX.vvvv, ModRM.rm (or to memory)
// and imm8[7:4]; R8 is the frame. Vector registers are renamed to 1, 0, 2, 3 in that order: VEX.vvvv is then
// 1111b both when it names XMM0 and when the instruction does not use it. A general register operand is RAX.

#include "interp/vector_emit.h"

#include <cstddef>
#include <cstring>
#include <span>

#include "base/assert.h"
#include "interp/vector_stub.h"
#include "x86/vector_info.h"

namespace ostler::interp {
namespace {

using x86::Encoding;
using x86::Instruction;
using x86::OperandKind;
using x86::VectorInfo;

constexpr uint8_t kVvvv = 0, kReg = 1, kRm = 2, kIs4 = 3;  // host vector registers

class Code {
 public:
  void bytes(std::initializer_list<uint8_t> list) {
    for (uint8_t byte : list) {
      ASSERT(size_ < sizeof bytes_, "a stub is shorter than its buffer");
      bytes_[size_++] = byte;
    }
  }
  void byte(uint8_t value) { bytes({value}); }
  // A jump to a place found later: 0F, `condition`, rel32. Returns what land() takes.
  size_t jump(uint8_t condition) {
    bytes({0x0f, condition, 0, 0, 0, 0});
    return size_;
  }
  void land(size_t jump) {
    const auto distance = static_cast<uint32_t>(size_ - jump);
    std::memcpy(bytes_ + jump - 4, &distance, 4);
  }
  std::span<const uint8_t> span() const { return {bytes_, size_}; }

 private:
  uint8_t bytes_[256];
  size_t size_ = 0;
};

// Pointer registers, as ModRM.rm with mod 0.
constexpr uint8_t kRdi = 7, kRsi = 6, kRdx = 2, kRcx = 1;

// Instructions whose destination is ModRM.rm: moves to memory, extracts, shifts by immediate.
bool destination_is_rm(const Instruction& insn) {
  if (insn.map == 1) {
    switch (insn.opcode_byte) {
      case 0x11:
      case 0x13:
      case 0x17:
      case 0x29:
      case 0x2b:
      case 0x7f:
      case 0xe7:
        return true;
      case 0x7e:
        return insn.prefix != 0xf3;
      case 0xd6:
        return insn.prefix == 0x66;
      default:
        return false;
    }
  }
  if (insn.map == 3) {
    switch (insn.opcode_byte) {
      case 0x14:
      case 0x15:
      case 0x16:
      case 0x17:
      case 0x19:
      case 0x39:
      case 0x1d:
        return true;
      default:
        return false;
    }
  }
  return false;
}

bool shift_group(const Instruction& insn) {
  return insn.map == 1 && insn.opcode_byte >= 0x71 && insn.opcode_byte <= 0x73;
}

Slot slot_of(OperandKind kind) {
  switch (kind) {
    case OperandKind::kVector:
      return Slot::kVector;
    case OperandKind::kMmx:
      return Slot::kMmx;
    case OperandKind::kGpr:
      return Slot::kGpr;
    case OperandKind::kMem:
      return Slot::kMemory;
    default:
      return Slot::kNone;
  }
}

// Operands in Intel order are reg, vvvv, rm, is4; rm first where it is the destination.
void lay_out(const Instruction& insn, StubHeader& header) {
  uint8_t registers = 0;
  while (registers < insn.operand_count && slot_of(insn.operand[registers].kind) != Slot::kNone) ++registers;
  const bool vex = insn.encoding == Encoding::kVex;
  // A legacy third register is the implicit XMM0.
  if (!vex && registers > 2) registers = 2;

  auto assign = [&](Slot StubHeader::*slot, uint8_t StubHeader::*operand, uint8_t number) {
    header.*slot = slot_of(insn.operand[number].kind);
    header.*operand = number;
    if (header.*slot == Slot::kGpr) header.gpr_size = insn.operand[number].size;
  };
  auto reg = [&](uint8_t n) { assign(&StubHeader::reg, &StubHeader::reg_operand, n); };
  auto vvvv = [&](uint8_t n) { assign(&StubHeader::vvvv, &StubHeader::vvvv_operand, n); };
  auto rm = [&](uint8_t n) { assign(&StubHeader::rm, &StubHeader::rm_operand, n); };

  if (shift_group(insn)) {
    if (registers == 2) {
      vvvv(0);
      rm(1);
    } else {
      rm(0);
    }
  } else if (destination_is_rm(insn)) {
    rm(0);
    if (registers == 3) vvvv(1);
    reg(static_cast<uint8_t>(registers - 1));
  } else {
    reg(0);
    if (registers == 2) rm(1);
    if (registers >= 3) {
      vvvv(1);
      rm(2);
    }
    if (registers == 4) assign(&StubHeader::is4, &StubHeader::is4_operand, 3);
  }
  if (header.info.implicit_xmm0) {
    header.vvvv = Slot::kVector;
    header.vvvv_operand = kImplicitXmm0;
  }
}

// PCMPESTRM, PCMPISTRM: the destination is XMM0.
bool mask_to_xmm0(const Instruction& insn) {
  return insn.map == 3 && (insn.opcode_byte == 0x60 || insn.opcode_byte == 0x62);
}

uint64_t key_of(const Instruction& insn, const StubHeader& header, bool wide, bool has_imm) {
  const bool memory = header.rm == Slot::kMemory;
  uint64_t key = static_cast<uint64_t>(insn.encoding == Encoding::kVex) | uint64_t{insn.map} << 1 |
                 uint64_t{insn.opcode_byte} << 8 | uint64_t{insn.prefix} << 16 | uint64_t{wide} << 24 |
                 uint64_t{insn.vex_l} << 25 | uint64_t{memory} << 26 | uint64_t{1} << 27;
  if (header.reg == Slot::kNone) key |= uint64_t{(insn.modrm >> 3) & 7u} << 28;
  if (has_imm) key |= (insn.imm & 0xff) << 32 | uint64_t{1} << 40;
  return key;
}

void load_vector(Code& code, bool vex, bool wide, uint8_t number, uint8_t pointer) {
  if (vex)
    code.bytes({0xc5, static_cast<uint8_t>(wide ? 0xfc : 0xf8)});
  else
    code.byte(0x0f);
  code.bytes({0x10, static_cast<uint8_t>(number << 3 | pointer)});  // (V)MOVUPS number, [pointer]
}

void store_vector(Code& code, bool vex, bool wide, uint8_t number, uint8_t pointer) {
  if (vex)
    code.bytes({0xc5, static_cast<uint8_t>(wide ? 0xfc : 0xf8)});
  else
    code.byte(0x0f);
  code.bytes({0x11, static_cast<uint8_t>(number << 3 | pointer)});
  if (vex && !wide) {
    code.bytes({0xc5, 0xd8, 0x57, 0xe4});                                        // VXORPS xmm4, xmm4, xmm4
    code.bytes({0xc5, 0xf8, 0x11, static_cast<uint8_t>(0x60 | pointer), 0x10});  // VMOVUPS [pointer+16], xmm4
  }
}

void load(Code& code, Slot slot, bool vex, bool wide, uint8_t number, uint8_t pointer) {
  if (slot == Slot::kVector) load_vector(code, vex, wide, number, pointer);
  if (slot == Slot::kMmx)
    code.bytes({0x0f, 0x6f, static_cast<uint8_t>(number << 3 | pointer)});  // MOVQ mm, [pointer]
}

void store(Code& code, Slot slot, bool vex, bool wide, uint8_t number, uint8_t pointer) {
  if (slot == Slot::kVector) store_vector(code, vex, wide, number, pointer);
  if (slot == Slot::kMmx) code.bytes({0x0f, 0x7f, static_cast<uint8_t>(number << 3 | pointer)});
}

constexpr uint8_t kOffsetRax = offsetof(StubFrame, rax), kOffsetRdx = offsetof(StubFrame, rdx),
                  kOffsetRcx = offsetof(StubFrame, rcx), kOffsetFlags = offsetof(StubFrame, flags_ax),
                  kOffsetScratch = offsetof(StubFrame, scratch);
static_assert(offsetof(StubFrame, mxcsr) == 0 && offsetof(StubFrame, host_mxcsr) == 4);

void save_flags(Code& code) {
  code.bytes({0x9f, 0x0f, 0x90, 0xc0});                // LAHF; SETO al
  code.bytes({0x66, 0x41, 0x89, 0x40, kOffsetFlags});  // MOV [r8+flags], ax
}

// The instruction with renamed registers; memory is [RDX], or [R9] when RDX is an operand.
void emit_instruction(Code& code, const Instruction& insn, const StubHeader& header, bool wide,
                      bool has_imm) {
  const bool memory = header.rm == Slot::kMemory;
  const bool memory_r9 = memory && header.info.reads_eax_edx;
  const uint8_t reg = header.reg == Slot::kNone ? (insn.modrm >> 3) & 7 : header.reg == Slot::kGpr ? 0 : kReg;
  uint8_t modrm = static_cast<uint8_t>(reg << 3);
  if (memory)
    modrm |= memory_r9 ? 1 : kRdx;
  else
    modrm |= 0xc0 | (header.rm == Slot::kGpr ? 0 : header.rm == Slot::kNone ? insn.modrm & 7 : kRm);

  if (insn.encoding == Encoding::kVex) {
    const uint8_t pp = insn.prefix == 0x66 ? 1 : insn.prefix == 0xf3 ? 2 : insn.prefix == 0xf2 ? 3 : 0;
    code.bytes({0xc4, static_cast<uint8_t>((memory_r9 ? 0xc0 : 0xe0) | insn.map),
                static_cast<uint8_t>(wide << 7 | 0x78 | insn.vex_l << 2 | pp), insn.opcode_byte, modrm});
  } else {
    if (insn.prefix != 0) code.byte(insn.prefix);
    const uint8_t rex = static_cast<uint8_t>(wide << 3 | memory_r9);
    if (rex != 0) code.byte(0x40 | rex);
    code.byte(0x0f);
    if (insn.map == 2) code.byte(0x38);
    if (insn.map == 3) code.byte(0x3a);
    code.bytes({insn.opcode_byte, modrm});
  }
  if (header.is4 != Slot::kNone)
    code.byte(static_cast<uint8_t>(kIs4 << 4));
  else if (has_imm)
    code.byte(static_cast<uint8_t>(insn.imm));
}

}  // namespace

uint32_t vector_stub(const Instruction& insn) {
  StubHeader header;
  header.info = x86::vector_info(insn);
  lay_out(insn, header);
  const bool string_mask = mask_to_xmm0(insn);
  if (string_mask) {
    header.vvvv = Slot::kVector;
    header.vvvv_operand = kImplicitXmm0;
  }
  const VectorInfo& info = header.info;
  const bool vex = insn.encoding == Encoding::kVex;
  const bool wide_vector = vex && insn.vex_l;
  // Outside 64-bit mode W is ignored where it would make a general register operand 64 bits wide: the size
  // decides.
  const bool has_gpr = header.gpr_size != 0;
  const bool scalar_integer_memory = insn.map == 1 && insn.opcode_byte == 0x2a && header.rm == Slot::kMemory;
  const bool doubleword = vex && (insn.opcode == x86::Opcode::kMovd || insn.opcode == x86::Opcode::kPinsrd ||
                                  insn.opcode == x86::Opcode::kPextrd);
  const bool wide = has_gpr                 ? header.gpr_size == 8
                    : doubleword            ? false
                    : scalar_integer_memory ? info.memory_size == 8 && insn.prefix >= 0xf2
                                            : insn.vex_w;
  bool has_imm = false;
  for (unsigned i = 0; i < insn.operand_count; ++i) has_imm |= insn.operand[i].kind == OperandKind::kImm;

  StubArena& arena = StubArena::instance();
  const uint64_t key = key_of(insn, header, wide, has_imm);
  if (const uint32_t known = arena.find(key)) return known;

  Code code;
  if (info.reads_eax_edx && header.rm == Slot::kMemory) code.bytes({0x49, 0x89, 0xd1});  // MOV r9, rdx
  auto load_operands = [&] {
    load(code, header.reg, vex, wide_vector, kReg, kRdi);
    load(code, header.vvvv, vex, wide_vector, kVvvv, kRsi);
    load(code, header.rm, vex, wide_vector, kRm, kRdx);
    load(code, header.is4, vex, wide_vector, kIs4, kRcx);
    if (has_gpr || info.reads_eax_edx) code.bytes({0x49, 0x8b, 0x40, kOffsetRax});  // MOV rax, [r8+rax]
    if (info.reads_eax_edx) code.bytes({0x49, 0x8b, 0x50, kOffsetRdx});             // MOV rdx, [r8+rdx]
  };
  auto execute = [&] {
    emit_instruction(code, insn, header, wide, has_imm);
    if (info.writes_flags) save_flags(code);
  };

  if (info.simd_exceptions) {
    // LDMXCSR is slow. With the control bits that the host has anyway, the instruction is tried under the
    // host's MXCSR: if that then shows no flag that the guest's does not have already, whatever was raised
    // changes nothing. Otherwise it is done over with the guest's MXCSR.
    code.bytes({0x45, 0x8b, 0x08});                          // MOV r9d, [r8]
    code.bytes({0x45, 0x89, 0xca});                          // MOV r10d, r9d
    code.bytes({0x41, 0x83, 0xe2, 0xc0});                    // AND r10d, ~0x3f
    code.bytes({0x41, 0x81, 0xfa, 0x80, 0x1f, 0x00, 0x00});  // CMP r10d, 0x1f80
    const size_t other_control = code.jump(0x85);            // JNE
    load_operands();
    execute();
    code.bytes({0x41, 0x0f, 0xae, 0x58, kOffsetScratch});  // STMXCSR [r8+scratch]
    code.bytes({0x45, 0x8b, 0x50, kOffsetScratch});        // MOV r10d, [r8+scratch]
    code.bytes({0x41, 0xf7, 0xd1});                        // NOT r9d
    code.bytes({0x41, 0x83, 0xe2, 0x3f});                  // AND r10d, 0x3f
    code.bytes({0x45, 0x85, 0xca});                        // TEST r10d, r9d
    const size_t done = code.jump(0x84);                   // JZ
    code.land(other_control);
    load_operands();
    code.bytes({0x41, 0x0f, 0xae, 0x10});  // LDMXCSR [r8]
    execute();
    code.bytes({0x41, 0x0f, 0xae, 0x18, 0x41, 0x0f, 0xae, 0x50, 0x04});  // STMXCSR [r8]; LDMXCSR [r8+4]
    code.land(done);
  } else {
    load_operands();
    execute();
  }
  if (has_gpr) code.bytes({0x49, 0x89, 0x40, kOffsetRax});
  if (info.writes_ecx) code.bytes({0x49, 0x89, 0x48, kOffsetRcx});
  if (string_mask) {
    store(code, Slot::kVector, vex, wide_vector, kVvvv, kRsi);
  } else if (!info.writes_flags) {
    if (header.reg != Slot::kNone && header.reg_operand == 0)
      store(code, header.reg, vex, wide_vector, kReg, kRdi);
    if (header.vvvv != Slot::kNone && header.vvvv_operand == 0)
      store(code, header.vvvv, vex, wide_vector, kVvvv, kRsi);
    if (header.rm != Slot::kNone && header.rm_operand == 0)
      store(code, header.rm, vex, wide_vector, kRm, kRdx);
  }
  if (header.reg == Slot::kMmx || header.rm == Slot::kMmx || info.mmx) code.bytes({0x0f, 0x77});  // EMMS
  if (wide_vector) code.bytes({0xc5, 0xf8, 0x77});  // VZEROUPPER
  code.bytes({0x31, 0xc0, 0xc3});                   // XOR eax, eax; RET
  return arena.add(key, header, code.span());
}

uint32_t x87_stub(const Instruction& insn) {
  StubHeader header;
  header.info = x86::vector_info(insn);
  const bool memory = insn.modrm < 0xc0;
  if (memory) header.rm = Slot::kMemory;

  StubArena& arena = StubArena::instance();
  const uint8_t modrm = memory ? static_cast<uint8_t>((insn.modrm & 0x38) | kRdx) : insn.modrm;
  const uint64_t key = uint64_t{1} << 41 | uint64_t{insn.opcode_byte} << 8 | modrm;
  if (const uint32_t known = arena.find(key)) return known;

  const bool flags = header.info.reads_flags || header.info.writes_flags;
  Code code;
  code.bytes({0x48, 0x0f, 0xae, 0x0f});  // FXRSTOR64 [rdi]
  if (flags) {
    code.bytes({0x66, 0x41, 0x8b, 0x40, kOffsetFlags});  // MOV ax, [r8+flags]
    code.bytes({0x04, 0x7f, 0x9e});                      // ADD al, 0x7f; SAHF
  }
  code.bytes({insn.opcode_byte, modrm});
  if (header.info.writes_flags) save_flags(code);
  code.bytes({0x48, 0x0f, 0xae, 0x07});  // FXSAVE64 [rdi]
  code.bytes({0xdb, 0xe3});              // FNINIT
  code.bytes({0x31, 0xc0, 0xc3});
  return arena.add(key, header, code.span());
}

}  // namespace ostler::interp
