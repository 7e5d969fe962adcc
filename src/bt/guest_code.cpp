#include "bt/guest_code.h"

#include <algorithm>

#include "x86/flag_effect.h"
#include "x86/host_cpu.h"
#include "x86/opcode_feature.h"
#include "x86/vector_info.h"

namespace ostler::bt {
namespace {

using x86::CodeSize;
using x86::DecodeStatus;
using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;
using x86::VectorClass;

constexpr unsigned kMaxLength = 15;
constexpr unsigned kPeek = 5;  // instructions looked at behind a jump to find out which flags it needs

CodeSize code_size(Mode mode) {
  return (mode & mode::k32) != 0 ? CodeSize::k32 : CodeSize::k64;
}
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
    case Opcode::kRcl:
    case Opcode::kRcr:
      return opcode != Opcode::kRcl && opcode != Opcode::kRcr;
    default:
      return false;
  }
}

// Copies code until `upto` bytes are there, as far as the page goes.
void read_more(mmu::SoftMmu& mmu, GuestCode& code, unsigned upto) {
  const auto in_page = static_cast<unsigned>(kPageSize - (code.phys & kPageMask));
  upto = std::min(in_page, upto);
  if (upto <= code.code_read) return;
  code.keep &= mmu.read_code(GuestPhys{code.phys + code.code_read},
                             {code.code + code.code_read, upto - code.code_read}, true);
  code.code_read = upto;
}

// The flags that code at `offset` from the block's start needs, as far as a few instructions tell.
uint16_t peek(mmu::SoftMmu& mmu, GuestCode& code, uint64_t rip) {
  const uint16_t all = x86::rflags::kArithmetic;
  const uint64_t offset = rip - code.rip;
  const uint64_t in_page = kPageSize - (code.phys & kPageMask);
  if (offset >= in_page) return all;  // also what lies before the block: it was not read
  uint16_t unknown = all, needed = 0;
  auto at = static_cast<unsigned>(offset);
  for (unsigned i = 0; i < kPeek && at < in_page; ++i) {
    read_more(mmu, code, at + 32);
    Instruction insn;
    if (x86::decode({code.code + at, code.code_read - at}, code_size(code.mode), insn) != DecodeStatus::kOk)
      break;
    const x86::FlagEffect effect = x86::flag_effect(insn);
    needed |= effect.read & unknown;
    unknown &= static_cast<uint16_t>(~effect.written);
    if (unknown == 0) return needed;
    switch (insn.opcode) {
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
        return needed | unknown;
      default:
        break;
    }
    at += insn.length;
  }
  return needed | unknown;
}

void analyse_flags(mmu::SoftMmu& mmu, GuestCode& code) {
  const uint16_t all = x86::rflags::kArithmetic;
  const GuestInsn& last = code.insns[code.count - 1];
  const auto target = [&](const GuestInsn& g) { return code.next_rip(g) + g.insn.imm; };
  uint16_t live = all;
  switch (last.kind) {
    case Kind::kJump:
      live = peek(mmu, code, target(last));
      break;
    case Kind::kCondition:
      live = peek(mmu, code, code.next_rip(last));
      break;
    case Kind::kCountJump:
      live = peek(mmu, code, target(last)) | peek(mmu, code, code.next_rip(last));
      break;
    case Kind::kCall:
    case Kind::kCallIndirect:
    case Kind::kJumpIndirect:
    case Kind::kReturn:
    case Kind::kInterpret:
    case Kind::kSystem:
      break;
    default:
      live = peek(mmu, code, code.next_rip(last));
      break;
  }
  for (unsigned i = code.count; i-- > 0;) {
    GuestInsn& g = code.insns[i];
    if (g.kind == Kind::kCondition) {
      g.live_taken = peek(mmu, code, target(g));
      live |= g.live_taken;
    }
    g.live_after = live;
    live = static_cast<uint16_t>((live & ~g.writes) | g.reads);
    if (g.kind == Kind::kInterpret) live = all;
  }
  code.entry_flags = live;
}

// Whether the flags at the entry would go to memory before anything wants them in the host's: then they had
// better stay there.
bool spills_first(const GuestCode& code) {
  if (code.entry_flags == 0) return false;
  for (unsigned i = 0; i < code.count; ++i) {
    const GuestInsn& g = code.insns[i];
    if (g.window_here) return true;
    if (g.touches_flags || g.reads != 0) return false;
    switch (g.kind) {
      case Kind::kGeneric:
        if (g.insn.has_memory() && !g.in_window) return true;
        break;
      case Kind::kPush:
      case Kind::kPop:
        if (!g.in_window) return true;
        break;
      case Kind::kLea:
      case Kind::kNothing:
        break;
      case Kind::kJump:
        return false;
      default:
        return true;
    }
  }
  return false;
}

}  // namespace

bool ends_block(const GuestInsn& g) {
  switch (g.kind) {
    case Kind::kInterpret:
    case Kind::kJump:
    case Kind::kCountJump:
    case Kind::kCall:
    case Kind::kJumpIndirect:
    case Kind::kCallIndirect:
    case Kind::kReturn:
      return true;
    case Kind::kSystem:
      switch (g.insn.opcode) {
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

void read_guest_code(mmu::SoftMmu& mmu, const x86::CpuModel& model, uint64_t rip, uint64_t phys, Mode mode,
                     const Options& options, GuestCode& out) {
  out.rip = rip;
  out.base = 0;
  out.shared = false;
  out.phys = phys;
  out.mode = mode;
  out.count = out.bytes = out.code_read = 0;
  out.straddles = false;
  out.keep = true;
  const auto in_page = static_cast<unsigned>(kPageSize - (phys & kPageMask));
  unsigned at = 0;
  while (out.count < options.block_instructions && at < in_page) {
    if (at + kMaxLength > out.code_read) read_more(mmu, out, at + 96);
    GuestInsn& g = out.insns[out.count];
    DecodeStatus status = x86::decode({out.code + at, out.code_read - at}, code_size(mode), g.insn);
    if (status == DecodeStatus::kTruncated) {
      if (out.count != 0) break;
      const uint64_t second = (rip | kPageMask) + 1;
      // Beyond 4 GiB is beyond CS's limit.
      if (out.wrap(second) == second) {
        out.second_phys = mmu.translate_fetch(second).value;
        out.keep &=
            mmu.read_code(GuestPhys{out.second_phys}, {out.code + in_page, kMaxLength - in_page}, true);
        out.straddles = true;
        status = x86::decode({out.code + at, kMaxLength}, code_size(mode), g.insn);
      }
    }
    g.in_window = g.window_here = g.share_here = false;
    g.share = 0;
    g.bytes = out.code + at;
    g.at = static_cast<uint16_t>(at);
    if (status == DecodeStatus::kOk) {
      g.kind = kind_of(g.insn, model, mode, options);
      if (out.bits32() && !fits_32(g.insn, g.kind)) g.kind = Kind::kInterpret;
      const x86::FlagEffect effect = x86::flag_effect(g.insn);
      g.reads = effect.read;
      g.writes = effect.written;
      // A divide error's frame shows them.
      if (g.kind == Kind::kSystem && ends_block(g)) g.writes = 0;
      if (g.insn.opcode == Opcode::kDiv || g.insn.opcode == Opcode::kIdiv) g.reads = x86::rflags::kArithmetic;
      g.touches_flags =
          (effect.read | effect.written) != 0 && !(effect.written == 0 && only_reads_flags(g.insn.opcode));
    } else {
      g.kind = Kind::kInterpret;
      g.insn.length = std::max<uint8_t>(g.insn.length, 1);
      g.reads = x86::rflags::kArithmetic;
      g.writes = 0;
      g.touches_flags = true;
    }
    // What the interpreter does gets a block of its own when it comes first; otherwise the block ends before
    // it.
    if (g.kind == Kind::kInterpret && out.count != 0) break;
    at += g.insn.length;
    ++out.count;
    if (ends_block(g) || out.straddles || (options.count && g.kind == Kind::kCondition)) break;
  }
  // Nothing may come between STI and the next instruction: they stay together, or STI is for the interpreter.
  GuestInsn& last = out.insns[out.count - 1];
  if (last.kind == Kind::kSystem && last.insn.opcode == Opcode::kSti) {
    if (out.count == 1) {
      last.kind = Kind::kInterpret;
    } else {
      at = last.at;
      --out.count;
    }
  }
  out.bytes = at;
  analyse_flags(mmu, out);
  if (options.window && (mode & mode::kNoWindow) == 0) plan_window(out);
  out.flags_wait = options.flags_wait && spills_first(out);
  if (options.shared_checks && (mode & mode::kNoWindow) == 0) plan_sharing(out);
}

}  // namespace ostler::bt
