#include "x86/flag_effect.h"

#include <array>
#include <cstddef>
#include <initializer_list>

namespace ostler::x86 {
namespace {

constexpr auto kCf = static_cast<uint16_t>(rflags::kCf), kPf = static_cast<uint16_t>(rflags::kPf),
               kAf = static_cast<uint16_t>(rflags::kAf), kZf = static_cast<uint16_t>(rflags::kZf),
               kSf = static_cast<uint16_t>(rflags::kSf), kOf = static_cast<uint16_t>(rflags::kOf),
               kAll = static_cast<uint16_t>(rflags::kArithmetic);

// Instructions whose effect depends on more than their opcode.
enum class Rule : uint8_t { kFixed, kCondition, kShift, kRotate, kRotateCarry, kDoubleShift, kRepeated };

struct Entry {
  FlagEffect effect{kAll, 0};  // what is not listed might do anything
  Rule rule = Rule::kFixed;
};
using Table = std::array<Entry, static_cast<size_t>(Opcode::kCount)>;

constexpr Table make_table() {
  Table table{};
  const auto set = [&table](FlagEffect effect, std::initializer_list<Opcode> opcodes,
                            Rule rule = Rule::kFixed) {
    for (const Opcode opcode : opcodes) table[static_cast<size_t>(opcode)] = {effect, rule};
  };
  using enum Opcode;
  set({0, 0},
      {kMov,      kMovzx,    kMovsx,   kLea,     kXchg,       kPush,    kPop,      kPusha,      kPopa,
       kCbw,      kCwd,      kBswap,   kMovbe,   kXlat,       kLds,     kLes,      kLfs,        kLgs,
       kLss,      kNot,      kPdep,    kPext,    kRorx,       kSarx,    kShlx,     kShrx,       kMulx,
       kCrc32,    kJmp,      kJmpInd,  kJcxz,    kLoop,       kCall,    kCallInd,  kRet,        kBound,
       kEnter,    kLeave,    kMovs,    kStos,    kLods,       kIns,     kOuts,     kIn,         kOut,
       kCld,      kStd,      kCli,     kSti,     kNop,        kPause,   kWait,     kSwapgs,     kCpuid,
       kRdmsr,    kWrmsr,    kRdtsc,   kRdtscp,  kRdpmc,      kRdpid,   kLgdt,     kLidt,       kSgdt,
       kSidt,     kLldt,     kLtr,     kSldt,    kStr,        kSmsw,    kLmsw,     kClts,       kInvd,
       kWbinvd,   kInvlpg,   kInvpcid, kClflush, kClflushopt, kClwb,    kCldemote, kPrefetch,   kPrefetchw,
       kLfence,   kMfence,   kSfence,  kMovnti,  kMonitor,    kXgetbv,  kXsetbv,   kRdfsbase,   kRdgsbase,
       kWrfsbase, kWrgsbase, kClac,    kStac,    kSerialize,  kFxsave,  kFxrstor,  kXsave,      kXsaveopt,
       kXsavec,   kXsaves,   kXrstor,  kXrstors, kLdmxcsr,    kStmxcsr, kEmms,     kVzeroupper, kVzeroall});
  set({0, kAll}, {kAdd,   kOr,   kAnd,    kSub,  kXor,  kCmp,  kTest,    kNeg,    kMul,    kImul,   kImul2,
                  kImul3, kDiv,  kIdiv,   kAam,  kAad,  kBsf,  kBsr,     kTzcnt,  kLzcnt,  kPopcnt, kAndn,
                  kBextr, kBlsi, kBlsmsk, kBlsr, kBzhi, kXadd, kCmpxchg, kRdrand, kRdseed, kPopf});
  set({kCf, kAll}, {kAdc, kSbb});
  set({kCf | kAf, kAll}, {kDaa, kDas});
  set({kAf, kAll}, {kAaa, kAas});
  set({0, kAll & ~kCf}, {kInc, kDec});
  // Of the rest of the flags processors keep what the manual calls undefined.
  set({0, kCf}, {kBt, kBts, kBtr, kBtc});
  set({0, kZf}, {kCmpxchg8b, kCmpxchg16b, kLar, kLsl, kVerr, kVerw, kArpl});
  set({0, kCf}, {kClc, kStc});
  set({kCf, kCf}, {kCmc, kAdcx});
  set({kOf, kOf}, {kAdox});
  set({kCf, 0}, {kSalc});
  set({kZf, 0}, {kLoope, kLoopne});
  set({kAll & ~kOf, 0}, {kLahf});
  set({0, kAll & ~kOf}, {kSahf});
  set({kAll, 0}, {kPushf});

  set({0, 0}, {kJcc, kSetcc, kCmov}, Rule::kCondition);
  set({0, 0}, {kRol, kRor}, Rule::kRotate);
  set({0, 0}, {kRcl, kRcr}, Rule::kRotateCarry);
  set({0, 0}, {kShl, kShr, kSar}, Rule::kShift);
  set({0, 0}, {kShld, kShrd}, Rule::kDoubleShift);
  set({0, kAll}, {kCmps, kScas}, Rule::kRepeated);

  // x87, MMX, SSE and AVX: few touch the flags.
  for (auto i = static_cast<size_t>(kFadd); i < table.size(); ++i) table[i].effect = {0, 0};
  set({0, kAll}, {kComiss, kComisd, kUcomiss, kUcomisd, kPtest, kVtestps, kVtestpd, kPcmpestri, kPcmpestrm,
                  kPcmpistri, kPcmpistrm});
  // An unmasked exception is only noted, and the flags stay.
  set({kAll, 0}, {kFcomi, kFcomip, kFucomi, kFucomip});
  set({kCf, 0}, {kFcmovb, kFcmovnb});
  set({kZf, 0}, {kFcmove, kFcmovne});
  set({kCf | kZf, 0}, {kFcmovbe, kFcmovnbe});
  set({kPf, 0}, {kFcmovu, kFcmovnu});
  return table;
}
constexpr Table kTable = make_table();

constexpr uint16_t kConditionFlags[8] = {kOf, kCf, kZf, kCf | kZf, kSf, kPf, kSf | kOf, kSf | kOf | kZf};

// `count` is the operand that holds it; CL may be 0, which keeps everything.
FlagEffect counted(const Instruction& insn, const Operand& count, FlagEffect by_one, FlagEffect by_more) {
  const auto any = static_cast<uint16_t>(by_one.read | by_one.written | by_more.read | by_more.written);
  if (count.kind != OperandKind::kImm) return {any, 0};
  const uint64_t masked = insn.imm & (insn.operand[0].size == 8 ? 63 : 31);
  if (masked == 0) return {0, 0};
  return masked == 1 ? by_one : by_more;
}

}  // namespace

uint16_t condition_flags(unsigned condition) {
  return kConditionFlags[condition >> 1 & 7];
}

FlagEffect flag_effect(const Instruction& insn) {
  const Entry& entry = kTable[static_cast<size_t>(insn.opcode)];
  switch (entry.rule) {
    case Rule::kFixed:
      return entry.effect;
    case Rule::kCondition:
      return {condition_flags(insn.condition), 0};
    case Rule::kShift:
      return counted(insn, insn.operand[1], {0, kAll}, {0, kAll});
    case Rule::kDoubleShift:
      return counted(insn, insn.operand[2], {0, kAll}, {0, kAll});
    // OF is undefined for counts over 1: processors keep it or not.
    case Rule::kRotate:
      return counted(insn, insn.operand[1], {0, kCf | kOf}, {kOf, kCf});
    case Rule::kRotateCarry:
      return counted(insn, insn.operand[1], {kCf, kCf | kOf}, {kCf | kOf, kCf});
    // With a count of 0 nothing is compared.
    case Rule::kRepeated:
      return insn.rep || insn.repne ? FlagEffect{kAll, 0} : entry.effect;
  }
  return {kAll, 0};
}

uint16_t undefined_flags(const Instruction& insn) {
  switch (insn.opcode) {
    case Opcode::kMul:
    case Opcode::kImul:
    case Opcode::kImul2:
    case Opcode::kImul3:
      return kSf | kZf | kAf | kPf;
    case Opcode::kDiv:
    case Opcode::kIdiv:
      return kAll;
    case Opcode::kAnd:
    case Opcode::kOr:
    case Opcode::kXor:
    case Opcode::kTest:
      return kAf;
    case Opcode::kShl:
    case Opcode::kShr:
    case Opcode::kSar:
      return insn.imm == 1 ? kAf : kAf | kOf | (insn.operand[0].size < 4 ? kCf : 0);
    case Opcode::kRol:
    case Opcode::kRor:
    case Opcode::kRcl:
    case Opcode::kRcr:
      return insn.imm == 1 ? 0 : kOf;
    case Opcode::kShld:
    case Opcode::kShrd:
      return kAf | kOf | (insn.operand[0].size == 2 ? kAll : 0);
    case Opcode::kBsf:
    case Opcode::kBsr:
      return kAll & ~kZf;
    case Opcode::kTzcnt:
    case Opcode::kLzcnt:
      return kAll & ~(kZf | kCf);
    case Opcode::kAndn:
    case Opcode::kBlsi:
    case Opcode::kBlsmsk:
    case Opcode::kBlsr:
    case Opcode::kBzhi:
      return kAf | kPf;
    case Opcode::kBextr:
      return kAf | kPf | kSf;
    default:
      return 0;
  }
}

}  // namespace ostler::x86
