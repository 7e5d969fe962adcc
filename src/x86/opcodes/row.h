// The vocabulary of the opcode tables: a Row is one line of a manual's opcode map, with the conditions under
// which it applies (Match), its operands in the manual's notation (SDM Vol. 2D App. A) and facts about it
// (Properties). Private to the decoder, vector_info and opcode_feature. Everything is evaluated by the
// compiler.
#pragma once

#include <array>
#include <cstdint>

#include "x86/opcode_feature.h"

namespace ostler::x86::opcodes {

// The opcode byte spaces. VEX rows are separate: prefixes, operands and features differ from the legacy
// form's.
enum class Space : uint8_t { kPrimary, k0f, k0f38, k0f3a, kVex0f, kVex0f38, kVex0f3a, kCount };

// ---- Conditions
// ------------------------------------------------------------------------------------------------ One word
// describes what a decoder knows once it has the opcode and ModRM; a row applies when (word & mask) == value.
// Rows of one opcode are tried in the order of the table.
namespace key {
inline constexpr unsigned kPrefixShift =
    0;  // 2 bits: 0 none, 1 66, 2 F3, 3 F2 (as in VEX.pp); F2/F3 win over 66
inline constexpr unsigned kModShift = 2;  // 1 bit: ModRM.mod == 3
inline constexpr unsigned kRegShift = 3;  // 3 bits: ModRM.reg
inline constexpr unsigned kRmShift = 6;   // 3 bits: ModRM.rm
inline constexpr unsigned kSelectable =
    9;  // bits that choose among rows by table lookup; those above by comparison
inline constexpr unsigned kWShift = 9;      // VEX.W or REX.W
inline constexpr unsigned kLShift = 10;     // VEX.L
inline constexpr unsigned kLongShift = 11;  // 64-bit code
inline constexpr unsigned kRexBShift = 12;
inline constexpr uint16_t kModrmBits = 0x7f << kModShift;
}  // namespace key

struct Match {
  uint16_t mask = 0, value = 0;
  friend constexpr Match operator&(Match a, Match b) {
    return {static_cast<uint16_t>(a.mask | b.mask), static_cast<uint16_t>(a.value | b.value)};
  }
};
constexpr Match field(unsigned shift, unsigned width, unsigned value) {
  return {static_cast<uint16_t>(((1u << width) - 1) << shift), static_cast<uint16_t>(value << shift)};
}

// ---- Operands
// --------------------------------------------------------------------------------------------------
enum class Place : uint8_t {
  kNone,
  kRm,          // general register or memory by ModRM.rm
  kRmRegister,  // general register by ModRM.rm, whatever ModRM.mod says (MOV from and to CRn, DRn)
  kMemory,      // memory by ModRM.rm; a register form does not match
  kGather,      // memory with a vector of indexes (VSIB)
  kReg,         // general register by ModRM.reg
  kVvvv,        // general register by VEX.vvvv
  kOpcodeReg,   // general register by the opcode's low bits
  kRax,
  kRcx,
  kRdx,
  kSegment,        // ModRM.reg
  kOpcodeSegment,  // PUSH ES…: opcode bits 5:3
  kControl,
  kDebug,
  kImm8,   // zero-extended
  kImm8s,  // sign-extended
  kImm16,
  kImmZ,  // 16 or 32 bits, sign-extended
  kImmV,  // as wide as the operand size
  kOne,
  kEnter,  // imm16, then imm8 in imm2
  kRel8,
  kRelZ,
  kFar,
  kMoffs,  // address in the instruction
  kXmmReg,
  kXmmRm,
  kXmmVvvv,
  kXmmIs4,  // imm8[7:4]
  kMmxReg,
  kMmxRm,
  kSt0,
  kStRm,
};

enum class Size : uint8_t {
  k0,         // the instruction defines it
  kB,         // 1
  kW,         // 2
  kD,         // 4
  kQ,         // 8
  kT,         // 10
  kDq,        // 16
  kQq,        // 32
  kV,         // operand size
  kZ,         // operand size, at most 4
  kY,         // 8 with W in 64-bit code, else 4
  kN,         // 8 in 64-bit code, else 4
  kX,         // 16 or 32 by VEX.L
  kHx,        // half of kX
  kQx,        // a quarter
  kEx,        // an eighth
  kDdup,      // MOVDDUP's source: 8 or 32
  kRegVMemW,  // operand size in a register, 2 in memory (SLDT, MOV from a segment register)
  kRegDMemB,  // PINSRB, PEXTRB: 4 in a register, 1 in memory
  kRegDMemW,
  kRegDqMemD,  // INSERTPS
  kEnv,        // FLDENV: 14 or 28 by operand size
  kState,      // FRSTOR: 94 or 108
  kCount,
};

struct Spec {
  Place place = Place::kNone;
  Size size = Size::k0;
};
using Operands = std::array<Spec, 4>;

// ---- Properties
// ------------------------------------------------------------------------------------------------
namespace trait {
inline constexpr uint32_t kLock = 1u << 0;       // LOCK allowed when operand 0 is memory
inline constexpr uint32_t kDefault64 = 1u << 1;  // operand size 8 unless 66, in 64-bit code
inline constexpr uint32_t kForce64 = 1u << 2;    // operand size 8 in 64-bit code
inline constexpr uint32_t kByte = 1u << 3;       // operand size 1
inline constexpr uint32_t kSizeY = 1u << 4;      // operand size as Size::kY; 66 does not count
inline constexpr uint32_t kSizeN = 1u << 5;      // operand size as Size::kN
inline constexpr uint32_t kSizeZ = 1u << 6;      // operand size at most 4
inline constexpr uint32_t kString = 1u << 7;     // F2 and F3 repeat
inline constexpr uint32_t kCondition = 1u << 8;  // condition in the opcode's low bits

// The facts of vector_info.h
inline constexpr uint32_t kX87 = 1u << 10, kMmx = 1u << 11, kSse = 1u << 12, kAvx = 1u << 13;
inline constexpr uint32_t kVector = kX87 | kMmx | kSse | kAvx;
inline constexpr uint32_t kSimdExceptions = 1u << 14;
inline constexpr uint32_t kAligned = 1u << 15;    // memory must be aligned even under VEX
inline constexpr uint32_t kUnaligned = 1u << 16;  // legacy SSE that may be unaligned
inline constexpr uint32_t kStore = 1u << 17;      // x87: writes its memory operand
inline constexpr uint32_t kNoWait = 1u << 18;     // x87: does not raise pending exceptions
inline constexpr uint32_t kControl = 1u << 19;
inline constexpr uint32_t kReadsFlags = 1u << 20, kWritesFlags = 1u << 21;
inline constexpr uint32_t kEaxEdx = 1u << 22, kWritesEcx = 1u << 23, kRdi = 1u << 24, kXmm0 = 1u << 25,
                          kWritesXmm0 = 1u << 9;
inline constexpr uint32_t kIndexD = 1u << 26, kIndexQ = 1u << 27;  // gathers
inline constexpr uint32_t kMaskD = 1u << 28, kMaskQ = 1u << 29;
inline constexpr uint32_t kUsesMmx = 1u << 30;  // an SSE instruction with an MMX operand
inline constexpr uint32_t kWide = 1u << 31;     // the 256-bit form needs AVX2, VAES or VPCLMULQDQ
}  // namespace trait

struct Properties {
  uint32_t traits = 0;
  Feature feature = kNoFeature;
  friend constexpr Properties operator|(Properties a, Properties b) {
    return {a.traits | b.traits, b.feature != kNoFeature ? b.feature : a.feature};
  }
};

struct Row {
  Opcode opcode = Opcode::kInvalid;
  Match match;
  Operands operands;
  Properties properties;
  Space space = Space::kPrimary;
  uint8_t byte = 0;
  uint8_t operand_count = 0;
  bool unused_vvvv = false;  // VEX.vvvv must be 1111b
};

// ---- What the .inc files are written in
// ------------------------------------------------------------------------
namespace notation {

inline constexpr Match any{};
inline constexpr Match np = field(key::kPrefixShift, 2, 0), p66 = field(key::kPrefixShift, 2, 1),
                       f3 = field(key::kPrefixShift, 2, 2), f2 = field(key::kPrefixShift, 2, 3);
inline constexpr Match no_rep = field(key::kPrefixShift + 1, 1, 0);  // none or 66
inline constexpr Match mem = field(key::kModShift, 1, 0), reg = field(key::kModShift, 1, 1);
inline constexpr Match m64 = field(key::kLongShift, 1, 1), no64 = field(key::kLongShift, 1, 0);
inline constexpr Match w0 = field(key::kWShift, 1, 0), w1 = field(key::kWShift, 1, 1);
inline constexpr Match l0 = field(key::kLShift, 1, 0), l1 = field(key::kLShift, 1, 1);
inline constexpr Match rex_b = field(key::kRexBShift, 1, 1);
constexpr Match r(unsigned n) {
  return field(key::kRegShift, 3, n);
}
constexpr Match rm(unsigned n) {
  return field(key::kRmShift, 3, n);
}

template <class... Specs>
constexpr Operands ops(Specs... specs) {
  return Operands{specs...};
}

#define SPEC(name, place, size) inline constexpr Spec name{Place::place, Size::size};
// General registers and memory
// clang-format off
SPEC(Eb, kRm, kB) SPEC(Ew, kRm, kW) SPEC(Ed, kRm, kD) SPEC(Ev, kRm, kV) SPEC(Ey, kRm, kY) SPEC(En, kRm, kN)
SPEC(Rn, kRmRegister, kN) SPEC(Ez, kRm, kZ) SPEC(RvMw, kRm, kRegVMemW) SPEC(RdMb, kRm, kRegDMemB)
SPEC(RdMw, kRm, kRegDMemW) SPEC(M, kMemory, k0) SPEC(Mb, kMemory, kB) SPEC(Mw, kMemory, kW)
SPEC(Md, kMemory, kD) SPEC(Mq, kMemory, kQ) SPEC(Mt, kMemory, kT) SPEC(Mdq, kMemory, kDq)
SPEC(Mx, kMemory, kX) SPEC(Mv, kMemory, kV) SPEC(My, kMemory, kY) SPEC(Menv, kMemory, kEnv)
SPEC(Mstate, kMemory, kState) SPEC(VMd, kGather, kD) SPEC(VMq, kGather, kQ) SPEC(Gb, kReg, kB)
SPEC(Gw, kReg, kW) SPEC(Gd, kReg, kD) SPEC(Gv, kReg, kV) SPEC(Gz, kReg, kZ) SPEC(Gy, kReg, kY)
SPEC(Gn, kReg, kN) SPEC(By, kVvvv, kY) SPEC(Zb, kOpcodeReg, kB) SPEC(Zv, kOpcodeReg, kV) SPEC(AL, kRax, kB)
SPEC(AX, kRax, kW) SPEC(rAX, kRax, kV) SPEC(eAX, kRax, kZ) SPEC(CL, kRcx, kB) SPEC(DX, kRdx, kW)
SPEC(Sw, kSegment, kW) SPEC(Os, kOpcodeSegment, kW) SPEC(Cn, kControl, kN) SPEC(Dn, kDebug, kN)
SPEC(Ob, kMoffs, kB) SPEC(Ov, kMoffs, kV)
    // clang-format on
    // Immediates
    // clang-format off
SPEC(Ib, kImm8, kB) SPEC(Ibs, kImm8s, kV) SPEC(Ibb, kImm8s, kB) SPEC(Iw, kImm16, kW) SPEC(Iz, kImmZ, kV)
SPEC(Iv, kImmV, kV) SPEC(One, kOne, kB) SPEC(Ienter, kEnter, kW) SPEC(Jb, kRel8, k0) SPEC(Jz, kRelZ, k0)
SPEC(Ap, kFar, k0)
    // clang-format on
    // Vector registers: V by ModRM.reg, W by ModRM.rm, H by VEX.vvvv, L by imm8[7:4]; MMX: P and Q
    // clang-format off
SPEC(Vd, kXmmReg, kD) SPEC(Vq, kXmmReg, kQ) SPEC(Vdq, kXmmReg, kDq) SPEC(Vqq, kXmmReg, kQq)
SPEC(Vx, kXmmReg, kX) SPEC(Vhx, kXmmReg, kHx) SPEC(Wb, kXmmRm, kB) SPEC(Ww, kXmmRm, kW)
SPEC(Wd, kXmmRm, kD) SPEC(Wq, kXmmRm, kQ) SPEC(Wdq, kXmmRm, kDq) SPEC(Wqq, kXmmRm, kQq)
SPEC(Wx, kXmmRm, kX) SPEC(Whx, kXmmRm, kHx) SPEC(Wqx, kXmmRm, kQx) SPEC(Wex, kXmmRm, kEx)
SPEC(Wddup, kXmmRm, kDdup) SPEC(UdqMd, kXmmRm, kRegDqMemD) SPEC(Hd, kXmmVvvv, kD) SPEC(Hq, kXmmVvvv, kQ)
SPEC(Hdq, kXmmVvvv, kDq) SPEC(Hqq, kXmmVvvv, kQq) SPEC(Hx, kXmmVvvv, kX) SPEC(Hhx, kXmmVvvv, kHx)
SPEC(Lx, kXmmIs4, kX) SPEC(Pq, kMmxReg, kQ) SPEC(Qd, kMmxRm, kD) SPEC(Qq, kMmxRm, kQ) SPEC(St0, kSt0, kT)
SPEC(Sti, kStRm, kT)
// clang-format on
#undef SPEC

                                        inline constexpr Properties none{};
#define PROPERTY(name, ...) inline constexpr Properties name{__VA_ARGS__};
PROPERTY(lock, trait::kLock)
PROPERTY(byte, trait::kByte)
PROPERTY(byte_lock, trait::kByte | trait::kLock)
PROPERTY(d64, trait::kDefault64)
PROPERTY(f64, trait::kForce64)
PROPERTY(y, trait::kSizeY)
PROPERTY(n, trait::kSizeN)
PROPERTY(z, trait::kSizeZ)
PROPERTY(str, trait::kString)
PROPERTY(str_byte, trait::kString | trait::kByte)
PROPERTY(str_z, trait::kString | trait::kSizeZ)
PROPERTY(cc, trait::kCondition)
// Classes with the feature that brought the instruction
PROPERTY(x87, trait::kX87, Feature::kFpu)
PROPERTY(mmx, trait::kMmx, Feature::kMmx)
PROPERTY(mmx_sse, trait::kMmx, Feature::kSse)
PROPERTY(mmx_sse2, trait::kMmx, Feature::kSse2)
PROPERTY(mmx_ssse3, trait::kMmx, Feature::kSsse3)
PROPERTY(sse, trait::kSse, Feature::kSse)
PROPERTY(sse2, trait::kSse, Feature::kSse2)
PROPERTY(sse3, trait::kSse, Feature::kSse3)
PROPERTY(ssse3, trait::kSse, Feature::kSsse3)
PROPERTY(sse41, trait::kSse, Feature::kSse41)
PROPERTY(sse42, trait::kSse, Feature::kSse42)
PROPERTY(aes, trait::kSse, Feature::kAes)
PROPERTY(pclmul, trait::kSse, Feature::kPclmulqdq)
PROPERTY(sha, trait::kSse, Feature::kSha)
PROPERTY(gfni, trait::kSse, Feature::kGfni)
PROPERTY(avx, trait::kAvx, Feature::kAvx)
PROPERTY(avx2, trait::kAvx, Feature::kAvx2)
PROPERTY(avxi, trait::kAvx | trait::kWide, Feature::kAvx)  // 256-bit integer forms came with AVX2
PROPERTY(fma, trait::kAvx | trait::kSimdExceptions, Feature::kFma)
PROPERTY(f16c, trait::kAvx | trait::kSimdExceptions, Feature::kF16c)
PROPERTY(vaes, trait::kAvx | trait::kWide, Feature::kAes)
PROPERTY(vpclmul, trait::kAvx | trait::kWide, Feature::kPclmulqdq)
PROPERTY(vgfni, trait::kAvx, Feature::kGfni)
PROPERTY(vnni, trait::kAvx, Feature::kAvxVnni)
PROPERTY(bmi1, trait::kSizeY, Feature::kBmi1)
PROPERTY(bmi2, trait::kSizeY, Feature::kBmi2)
// Details
PROPERTY(fp, trait::kSimdExceptions)
PROPERTY(aligned, trait::kAligned)
PROPERTY(unaligned, trait::kUnaligned)
PROPERTY(store, trait::kStore)
PROPERTY(control, trait::kControl)
PROPERTY(nowait, trait::kControl | trait::kNoWait)
PROPERTY(rflags, trait::kReadsFlags)
PROPERTY(wflags, trait::kWritesFlags)
PROPERTY(eaxedx, trait::kEaxEdx)
PROPERTY(wecx, trait::kWritesEcx)
PROPERTY(wxmm0, trait::kWritesXmm0)
PROPERTY(rdi, trait::kRdi)
PROPERTY(xmm0, trait::kXmm0)
PROPERTY(index_d, trait::kIndexD)
PROPERTY(index_q, trait::kIndexQ)
PROPERTY(mask_d, trait::kMaskD)
PROPERTY(mask_q, trait::kMaskQ)
PROPERTY(uses_mmx, trait::kUsesMmx)
#undef PROPERTY
constexpr Properties needs(Feature feature) {
  return {0, feature};
}

}  // namespace notation
}  // namespace ostler::x86::opcodes
