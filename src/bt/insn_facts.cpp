// How each instruction is translated, and what else its encoding alone decides.
#include "bt/insn_facts.h"

#include "bt/operands.h"
#include "x86/flag_effect.h"
#include "x86/host_cpu.h"
#include "x86/opcode_feature.h"
#include "x86/vector_info.h"

namespace ostler::bt {
namespace {

using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;
using x86::VectorClass;

uint8_t word_size(Mode mode) {
  return (mode & mode::k32) != 0 ? 4 : 8;
}

bool offered(const Instruction& insn, const x86::CpuModel& model) {
  const x86::Feature feature = x86::opcode_feature(insn);
  if (feature == x86::kNoFeature) return true;
  return model.has(feature) && x86::HostCpu::current().features.has(feature);
}

bool has_special_operand(const Instruction& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const OperandKind kind = insn.operand[i].kind;
    if (kind == OperandKind::kSegment || kind == OperandKind::kControl || kind == OperandKind::kDebug ||
        kind == OperandKind::kFar)
      return true;
  }
  return false;
}

Kind vector_kind(const Instruction& insn, const x86::CpuModel& model, Mode mode) {
  const x86::VectorInfo info = x86::vector_info(insn);
  switch (info.vector_class) {
    case VectorClass::kNone:
      return Kind::kInterpret;
    case VectorClass::kX87:
    case VectorClass::kMmx:
      if ((mode & mode::kNoX87) != 0) return Kind::kInterpret;
      break;
    case VectorClass::kSse:
      if ((mode & mode::kNoSse) != 0 || (info.mmx && (mode & mode::kNoX87) != 0)) return Kind::kInterpret;
      break;
    case VectorClass::kAvx:
      if ((mode & mode::kNoAvx) != 0 || !model.has(x86::Feature::kAvx) ||
          !x86::HostCpu::current().features.has(x86::Feature::kAvx))
        return Kind::kInterpret;
      break;
  }
  if (info.gather || info.implicit_rdi || info.mask_element_size != 0 || info.memory_size > 32)
    return Kind::kInterpret;
  // The environment holds instruction pointers, which would be the host's.
  if (info.vector_class == VectorClass::kX87 && (info.memory_size > 10 || info.x87_control))
    return Kind::kInterpret;
  return Kind::kGeneric;
}

// Those that need no more than a few instructions, at the privilege that they want.
Kind system_kind(const Instruction& insn, Mode mode, const Options& options) {
  if (!options.system || options.check != 0) return Kind::kInterpret;  // some cannot be run twice
  const bool ring0 = (mode & mode::kCpl0) != 0;
  const bool plain = (mode & (mode::kNoX87 | mode::kNoSse | mode::kNoAvx)) == 0;
  switch (insn.opcode) {
    case Opcode::kMov: {  // from CR2, of the control, debug and segment registers
      const bool from_cr2 = insn.operand[1].kind == OperandKind::kControl && insn.operand[1].index == 2;
      return ring0 && from_cr2 ? Kind::kSystem : Kind::kInterpret;
    }
    case Opcode::kCld:
    case Opcode::kRdfsbase:
    case Opcode::kRdgsbase:
    case Opcode::kWrfsbase:
    case Opcode::kWrgsbase:
      return Kind::kSystem;
    case Opcode::kCli:
    case Opcode::kSti:
    case Opcode::kSwapgs:
    case Opcode::kStac:
    case Opcode::kClac:
      return ring0 ? Kind::kSystem : Kind::kInterpret;
    case Opcode::kVerw:  // the descriptor is read as if SMAP did not let AC through
      return ring0 && (mode & (mode::kAc | mode::k32)) == 0 ? Kind::kSystem : Kind::kInterpret;
    case Opcode::kPushf:
    case Opcode::kPopf:
      return ring0 && insn.operand_size == word_size(mode) ? Kind::kSystem : Kind::kInterpret;
    case Opcode::kRdtsc:
    case Opcode::kRdtscp:
      return options.tsc ? Kind::kSystem : Kind::kInterpret;
    case Opcode::kSyscall:
      return (mode & (mode::kSupervisor | mode::k32)) == 0 && plain ? Kind::kSystem : Kind::kInterpret;
    case Opcode::kSysret:
      return ring0 && plain && (mode & (mode::kAc | mode::k32)) == 0 && insn.operand_size == 8
                 ? Kind::kSystem
                 : Kind::kInterpret;
    case Opcode::kLods:
    case Opcode::kScas:
    case Opcode::kCmps:
      if (insn.rep) return Kind::kInterpret;
      [[fallthrough]];
    case Opcode::kMovs:
    case Opcode::kStos:
      return !insn.repne && insn.address_size == word_size(mode) && insn.segment < x86::kFs
                 ? Kind::kString
                 : Kind::kInterpret;
    default:
      return Kind::kInterpret;
  }
}

// What translated 32-bit code can be, beside what the kind says. DS, ES and SS are flat; FS and GS have a
// base (Translator::address()).
bool fits_32(const Instruction& insn, Kind kind) {
  if (insn.address_size != 4) return false;
  // CS may be unreadable, and is never written.
  const bool accesses = insn.has_memory() || kind == Kind::kString;
  if (accesses && insn.segment == x86::kCs && kind != Kind::kLea && kind != Kind::kNothing) return false;
  if (kind == Kind::kBitString && insn.segment >= x86::kFs) return false;
  // W is ignored here where 64-bit code has a general register or its size; left to the interpreter, but for
  // where W chooses the instruction.
  if (insn.encoding != x86::Encoding::kVex) return true;
  // A register's number in the upper half of an immediate has three bits.
  if (insn.map == 3 && (insn.opcode_byte & 0xf0) == 0x40 && (insn.imm & 0x80) != 0) return false;
  // Of eight registers.
  if (insn.opcode == Opcode::kVzeroall || insn.opcode == Opcode::kVzeroupper) return false;
  if (insn.vex_w) {
    if (insn.map == 1 || (insn.map == 3 && insn.opcode_byte > 1)) return false;
    for (unsigned i = 0; i < insn.operand_count; ++i)
      if (insn.operand[i].kind == OperandKind::kGpr) return false;
  }
  return true;
}

Kind kind_of(const Instruction& insn, const x86::CpuModel& model, Mode mode, const Options& options) {
  const uint8_t word = word_size(mode);
  if (!offered(insn, model)) return Kind::kInterpret;
  switch (insn.opcode) {
    case Opcode::kMov:
      if (has_special_operand(insn)) return system_kind(insn, mode, options);
      // MOV moffs
      return insn.has_memory() && !insn.has_modrm && word == 8 ? Kind::kInterpret : Kind::kGeneric;
    case Opcode::kMovzx:
    case Opcode::kMovsx:
    case Opcode::kXchg:
    case Opcode::kCbw:
    case Opcode::kCwd:
    case Opcode::kBswap:
    case Opcode::kMovbe:
    case Opcode::kCmov:
    case Opcode::kSetcc:
    case Opcode::kAdd:
    case Opcode::kOr:
    case Opcode::kAdc:
    case Opcode::kSbb:
    case Opcode::kAnd:
    case Opcode::kSub:
    case Opcode::kXor:
    case Opcode::kCmp:
    case Opcode::kTest:
    case Opcode::kInc:
    case Opcode::kDec:
    case Opcode::kNeg:
    case Opcode::kNot:
    case Opcode::kMul:
    case Opcode::kImul:
    case Opcode::kImul2:
    case Opcode::kImul3:
    case Opcode::kDiv:
    case Opcode::kIdiv:
    case Opcode::kRol:
    case Opcode::kRor:
    case Opcode::kRcl:
    case Opcode::kRcr:
    case Opcode::kShl:
    case Opcode::kShr:
    case Opcode::kSar:
    case Opcode::kShld:
    case Opcode::kShrd:
    case Opcode::kBsf:
    case Opcode::kBsr:
    case Opcode::kTzcnt:
    case Opcode::kLzcnt:
    case Opcode::kPopcnt:
    case Opcode::kAndn:
    case Opcode::kBextr:
    case Opcode::kBlsi:
    case Opcode::kBlsmsk:
    case Opcode::kBlsr:
    case Opcode::kBzhi:
    case Opcode::kPdep:
    case Opcode::kPext:
    case Opcode::kRorx:
    case Opcode::kSarx:
    case Opcode::kShlx:
    case Opcode::kShrx:
    case Opcode::kMulx:
    case Opcode::kAdcx:
    case Opcode::kAdox:
    case Opcode::kCrc32:
    case Opcode::kXadd:
    case Opcode::kCmpxchg8b:
    case Opcode::kCmpxchg16b:
    case Opcode::kRdrand:
    case Opcode::kRdseed:
    case Opcode::kLahf:
    case Opcode::kSahf:
    case Opcode::kClc:
    case Opcode::kStc:
    case Opcode::kCmc:
    case Opcode::kMovnti:
    case Opcode::kLfence:
    case Opcode::kMfence:
    case Opcode::kSfence:
    case Opcode::kPause:
      return Kind::kGeneric;
    case Opcode::kCmpxchg:
      // AH cannot be named beside a memory operand, and AL is taken.
      return insn.has_memory() && insn.operand[1].index == 1 ? Kind::kInterpret : Kind::kGeneric;
    case Opcode::kBt:
    case Opcode::kBts:
    case Opcode::kBtr:
    case Opcode::kBtc:
      // With a register the bit may lie anywhere in memory.
      if (!insn.has_memory() || insn.operand[1].kind != OperandKind::kGpr) return Kind::kGeneric;
      // A segment's base comes after the address has been cut to 32 bits.
      return insn.operand_size == 2 || (insn.address_size == 4 && insn.segment >= x86::kFs)
                 ? Kind::kInterpret
                 : Kind::kBitString;
    case Opcode::kCli:
    case Opcode::kSti:
    case Opcode::kCld:
    case Opcode::kRdfsbase:
    case Opcode::kRdgsbase:
    case Opcode::kWrfsbase:
    case Opcode::kWrgsbase:
    case Opcode::kSwapgs:
    case Opcode::kStac:
    case Opcode::kClac:
    case Opcode::kPushf:
    case Opcode::kPopf:
    case Opcode::kVerw:
    case Opcode::kRdtsc:
    case Opcode::kRdtscp:
    case Opcode::kSyscall:
    case Opcode::kSysret:
    case Opcode::kMovs:
    case Opcode::kStos:
    case Opcode::kLods:
    case Opcode::kScas:
    case Opcode::kCmps:
      return system_kind(insn, mode, options);
    case Opcode::kSerialize:  // code that was written is noticed without it
    case Opcode::kNop:
    case Opcode::kPrefetch:
    case Opcode::kPrefetchw:
      return Kind::kNothing;
    case Opcode::kLea:
      return Kind::kLea;
    case Opcode::kPush:
      return has_special_operand(insn) || insn.operand_size != word ? Kind::kInterpret : Kind::kPush;
    case Opcode::kPop:
      return has_special_operand(insn) || insn.operand_size != word ||
                     insn.operand[0].kind != OperandKind::kGpr
                 ? Kind::kInterpret
                 : Kind::kPop;
    case Opcode::kLeave:
      return insn.operand_size == word ? Kind::kLeave : Kind::kInterpret;
    case Opcode::kJmp:
      return insn.operand_size == word ? Kind::kJump : Kind::kInterpret;
    case Opcode::kJcc:
      return insn.operand_size == word ? Kind::kCondition : Kind::kInterpret;
    case Opcode::kJcxz:
    case Opcode::kLoop:
      return insn.address_size == word ? Kind::kCountJump : Kind::kInterpret;
    case Opcode::kCall:
      return insn.operand_size == word ? Kind::kCall : Kind::kInterpret;
    case Opcode::kJmpInd:
      return insn.operand_size == word ? Kind::kJumpIndirect : Kind::kInterpret;
    case Opcode::kCallInd:
      return insn.operand_size == word ? Kind::kCallIndirect : Kind::kInterpret;
    case Opcode::kRet:
      return insn.operand_size == word ? Kind::kReturn : Kind::kInterpret;
    default:
      return vector_kind(insn, model, mode);
  }
}

bool only_reads_flags(Opcode opcode) {
  switch (opcode) {
    case Opcode::kJcc:
    case Opcode::kSetcc:
    case Opcode::kCmov:
    case Opcode::kLahf:
      return true;
    default:
      return false;
  }
}

bool ends_block(Kind kind, Opcode opcode) {
  switch (kind) {
    case Kind::kInterpret:
    case Kind::kJump:
    case Kind::kCountJump:
    case Kind::kCall:
    case Kind::kJumpIndirect:
    case Kind::kCallIndirect:
    case Kind::kReturn:
      return true;
    case Kind::kSystem:
      switch (opcode) {
        case Opcode::kSyscall:
        case Opcode::kSysret:
        case Opcode::kStac:
        case Opcode::kClac:
        case Opcode::kPopf:
          return true;
        default:
          return false;
      }
    default:
      return false;
  }
}

// Seen from a jump to it: where control goes afterwards is not the next instruction, or not always.
bool leads_elsewhere(Opcode opcode) {
  switch (opcode) {
    case Opcode::kJcc:
    case Opcode::kJmp:
    case Opcode::kJmpInd:
    case Opcode::kCall:
    case Opcode::kCallInd:
    case Opcode::kRet:
    case Opcode::kJcxz:
    case Opcode::kLoop:
    case Opcode::kLoope:
    case Opcode::kLoopne:
    case Opcode::kSyscall:
      return true;
    default:
      return false;
  }
}

StackUse stack_use(const InsnFacts& facts, const Instruction& insn, uint8_t word) {
  switch (facts.kind) {
    case Kind::kPush:
    case Kind::kCall:
    case Kind::kCallIndirect:
      return StackUse::kBelow;
    case Kind::kPop:
    case Kind::kReturn:
      return StackUse::kTop;
    case Kind::kGeneric:
      return facts.memory_size != 0 && is_at_stack(insn, word) ? StackUse::kOperand : StackUse::kNowhere;
    default:
      return StackUse::kNowhere;
  }
}

}  // namespace

void set_flag_facts(InsnFacts& facts, const Instruction& insn) {
  const x86::FlagEffect effect = x86::flag_effect(insn);
  facts.reads = effect.read;
  facts.writes = effect.written;
  if (facts.kind == Kind::kSystem && facts.ends_block) facts.writes = 0;
  // A divide error's frame shows them.
  if (insn.opcode == Opcode::kDiv || insn.opcode == Opcode::kIdiv) facts.reads = x86::rflags::kArithmetic;
  facts.touches_flags =
      (effect.read | effect.written) != 0 && !(effect.written == 0 && only_reads_flags(insn.opcode));
}

InsnFacts facts_of(const Instruction& insn, const x86::CpuModel& model, Mode mode, const Options& options) {
  const uint8_t word = word_size(mode);
  InsnFacts facts;
  facts.kind = kind_of(insn, model, mode, options);
  if ((mode & mode::k32) != 0 && !fits_32(insn, facts.kind)) facts.kind = Kind::kInterpret;
  facts.ends_block = ends_block(facts.kind, insn.opcode);
  facts.leads_elsewhere = leads_elsewhere(insn.opcode);
  facts.written = written_registers(insn, facts.kind);
  set_flag_facts(facts, insn);
  if (facts.kind == Kind::kGeneric && insn.has_memory()) {
    const MemoryUse use = memory_use(insn);
    facts.memory_size = static_cast<uint8_t>(use.size);
    facts.memory_write = use.write;
    facts.shareable = insn.segment < x86::kFs && insn.address_size == word;
  }
  facts.stack = stack_use(facts, insn, word);
  return facts;
}

}  // namespace ostler::bt
