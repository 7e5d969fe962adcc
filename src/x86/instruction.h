// One decoded instruction, flat and normalized: "add al, imm8" and "add r/m8, r8" look alike from here on.
// Produced by decode(); read by the interpreter and the translator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "x86/opcode.h"
#include "x86/state.h"

namespace ostler::x86 {

enum class CodeSize : uint8_t { k16, k32, k64 };  // by CS.D and CS.L

enum class OperandKind : uint8_t {
  kNone,
  kGpr,      // index = byte offset in CpuState::gpr (AH is 1, RCX is 8)
  kMem,      // the instruction's one memory operand
  kImm,      // imm, already sign- or zero-extended to 64 bits as the instruction wants it
  kRel,      // imm = displacement from the next instruction
  kFar,      // far pointer in the instruction: imm = offset, imm2 = selector
  kSegment,  // index = SegIndex
  kControl,  // index = CR number
  kDebug,    // index = DR number
  kVector,   // index = XMM/YMM number
  kMmx,      // index = MM number
  kSt,       // index = i of ST(i)
};

struct Operand {
  OperandKind kind = OperandKind::kNone;
  uint8_t index = 0;
  uint8_t size = 0;  // bytes; 0 where the instruction defines it (LEA, INVLPG, FXSAVE, far pointers…)
};

enum class Encoding : uint8_t { kLegacy, kVex };

inline constexpr uint8_t kNoRegister = kZeroGpr * 8;  // gpr byte offset that always reads 0
inline constexpr uint8_t kRipBase = 17 * 8;           // the next instruction's RIP

// 48 bytes: the interpreter keeps one in every Op, so an Op is one cache line.
struct Instruction {
  Opcode opcode = Opcode::kInvalid;
  uint16_t row = 0;          // of the opcode tables: the key of vector_info() and opcode_feature()
  uint8_t length = 0;        // bytes, 1..15
  uint8_t operand_size = 0;  // 2, 4, 8: the effective operand size (1 for byte forms)
  uint8_t address_size = 0;  // 2, 4, 8
  uint8_t condition = 0;     // 0..15 for Jcc, SETcc, CMOVcc

  bool lock : 1 = false;
  bool rep : 1 = false;    // F3 as a repeat prefix (string instructions: REP/REPE)
  bool repne : 1 = false;  // F2 as a repeat prefix
  bool has_modrm : 1 = false;
  bool vex_w : 1 = false;           // VEX.W or REX.W
  bool vex_l : 1 = false;           // VEX.L: 256-bit
  bool memory_operand : 1 = false;  // one of operand[] is kMem

  // Memory operand: seg:[base + index << scale + disp], truncated to address_size. base and index are byte
  // offsets in CpuState::gpr, kNoRegister when absent, base may be kRipBase.
  SegIndex segment = kDs;
  uint8_t base = kNoRegister;
  uint8_t index = kNoRegister;
  uint8_t scale : 4 = 0;  // shift, 0..3
  uint8_t operand_count : 4 = 0;

  // For re-encoding x87, MMX, SSE and AVX instructions on the host.
  Encoding encoding : 4 = Encoding::kLegacy;
  uint8_t map : 4 = 0;  // 0 one-byte, 1 0F, 2 0F38, 3 0F3A
  uint8_t prefix = 0;   // mandatory: 0, 0x66, 0xf3, 0xf2
  uint8_t opcode_byte = 0;
  uint8_t modrm = 0;         // as in the code (MOV CR/DR: mod forced to 3); mod == 3 means no memory operand
  uint8_t vector_index = 0;  // gathers: the XMM/YMM register of the indexes; `index` is kNoRegister then

  uint16_t imm2 = 0;   // ENTER's level, far pointer's selector
  Operand operand[4];  // destination first, Intel order
  int64_t disp = 0;    // also the 64-bit address of MOV moffs
  uint64_t imm = 0;

  bool has_memory() const { return has_modrm ? modrm < 0xc0 : memory_operand; }
};
static_assert(sizeof(Instruction) == 48);

enum class DecodeStatus : uint8_t {
  kOk,
  kTruncated,  // more bytes are needed than given (fetch the next page, then decode again)
  kInvalid,    // #UD
  kTooLong,    // over 15 bytes: #GP(0)
};

// Decodes the instruction at the start of `code` (at most 15 bytes are looked at). Depends on nothing but its
// arguments; whether the CPU model offers the instruction is the engine's question (see opcode_feature()),
// and so is what is #UD by mode or privilege: VEX encodings and LLDT, ARPL… in real and virtual-8086 mode,
// SYSRET outside 64-bit. LOCK on an instruction or operand form that forbids it is kInvalid. `out` is valid
// for kOk only, but `length` is set for kInvalid as far as it was understood.
DecodeStatus decode(std::span<const uint8_t> code, CodeSize code_size, Instruction& out);

}  // namespace ostler::x86
