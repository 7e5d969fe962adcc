// Hand-picked encodings, one rule of the manual each (SDM Vol. 2A §2 and the instructions' pages).
#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

#include "x86/instruction.h"

namespace ostler::x86 {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr CodeSize k16 = CodeSize::k16, k32 = CodeSize::k32, k64 = CodeSize::k64;

DecodeStatus status(CodeSize code_size, const Bytes& code) {
  Instruction insn;
  return decode(code, code_size, insn);
}

// Decodes what must be one valid instruction of exactly these bytes, with more bytes behind it.
Instruction valid(CodeSize code_size, Bytes code) {
  const size_t length = code.size();
  code.resize(length + 8, 0xcc);
  Instruction insn;
  EXPECT_EQ(decode(code, code_size, insn), DecodeStatus::kOk);
  EXPECT_EQ(insn.length, length);
  return insn;
}

void expect_gpr(const Operand& operand, unsigned offset, unsigned size) {
  EXPECT_EQ(operand.kind, OperandKind::kGpr);
  EXPECT_EQ(operand.index, offset);
  EXPECT_EQ(operand.size, size);
}

void expect_vector(const Operand& operand, unsigned number, unsigned size) {
  EXPECT_EQ(operand.kind, OperandKind::kVector);
  EXPECT_EQ(operand.index, number);
  EXPECT_EQ(operand.size, size);
}

// ---- normalized forms
// ------------------------------------------------------------------------------------------

TEST(Decoder, EncodingsOfAddLookAlike) {
  for (const Bytes& code : {Bytes{0x01, 0xd8}, Bytes{0x03, 0xc3}}) {
    const Instruction insn = valid(k32, code);
    EXPECT_EQ(insn.opcode, Opcode::kAdd);
    expect_gpr(insn.operand[0], kRax * 8, 4);
    expect_gpr(insn.operand[1], kRbx * 8, 4);
  }
  for (const Bytes& code : {Bytes{0x05, 0xfe, 0xff, 0xff, 0xff}, Bytes{0x81, 0xc0, 0xfe, 0xff, 0xff, 0xff},
                            Bytes{0x83, 0xc0, 0xfe}}) {
    const Instruction insn = valid(k32, code);
    EXPECT_EQ(insn.opcode, Opcode::kAdd);
    expect_gpr(insn.operand[0], kRax * 8, 4);
    EXPECT_EQ(insn.operand[1].kind, OperandKind::kImm);
    EXPECT_EQ(insn.operand[1].size, 4);
    EXPECT_EQ(insn.imm, static_cast<uint64_t>(-2));
  }
}

TEST(Decoder, ByteRegistersNeedRexForSpl) {
  expect_gpr(valid(k64, {0x88, 0xe0}).operand[1], kRax * 8 + 1, 1);    // ah
  expect_gpr(valid(k64, {0x40, 0x88, 0xe0}).operand[1], kRsp * 8, 1);  // spl
  expect_gpr(valid(k64, {0x44, 0x88, 0xe0}).operand[1], kR12 * 8, 1);  // r12b
}

TEST(Decoder, ShiftCounts) {
  EXPECT_EQ(valid(k32, {0xd1, 0xe0}).imm, 1u);
  EXPECT_EQ(valid(k32, {0xd1, 0xe0}).operand[1].kind, OperandKind::kImm);
  expect_gpr(valid(k32, {0xd3, 0xe0}).operand[1], kRcx * 8, 1);
  EXPECT_EQ(valid(k32, {0xc1, 0xe0, 0x9f}).imm, 0x9fu);
}

TEST(Decoder, ShiftGroupSixIsShl) {
  EXPECT_EQ(valid(k32, {0xc1, 0xf0, 0x01}).opcode, Opcode::kShl);
}

TEST(Decoder, NopXchgPause) {
  EXPECT_EQ(valid(k64, {0x90}).opcode, Opcode::kNop);
  EXPECT_EQ(valid(k64, {0x48, 0x90}).opcode, Opcode::kNop);
  EXPECT_EQ(valid(k64, {0xf3, 0x90}).opcode, Opcode::kPause);
  EXPECT_EQ(valid(k64, {0xf3, 0x49, 0x90}).opcode, Opcode::kPause);
  const Instruction xchg = valid(k64, {0x41, 0x90});
  EXPECT_EQ(xchg.opcode, Opcode::kXchg);
  expect_gpr(xchg.operand[0], kR8 * 8, 4);
  expect_gpr(xchg.operand[1], kRax * 8, 4);
}

TEST(Decoder, MoffsIsMemoryWithoutBase) {
  const Instruction wide = valid(k64, {0x48, 0xa1, 1, 2, 3, 4, 5, 6, 7, 0x88});
  EXPECT_EQ(wide.opcode, Opcode::kMov);
  expect_gpr(wide.operand[0], kRax * 8, 8);
  EXPECT_EQ(wide.operand[1].kind, OperandKind::kMem);
  EXPECT_EQ(wide.base, kNoRegister);
  EXPECT_EQ(wide.disp, static_cast<int64_t>(0x8807060504030201));
  EXPECT_TRUE(wide.has_memory());
  EXPECT_EQ(valid(k64, {0x67, 0xa0, 0xff, 0xff, 0xff, 0xff}).disp, 0xffffffff);
  EXPECT_EQ(valid(k16, {0xa2, 0xfe, 0xff}).disp, 0xfffe);
}

TEST(Decoder, MovSignExtendsImmediateOfTheMemoryForm) {
  EXPECT_EQ(valid(k64, {0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff}).imm, ~uint64_t{0});
  EXPECT_EQ(valid(k64, {0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0x80}).imm, 0x8000000000000001u);
}

TEST(Decoder, MovsxdByOperandSize) {
  const Instruction wide = valid(k64, {0x48, 0x63, 0xc1});
  EXPECT_EQ(wide.opcode, Opcode::kMovsx);
  expect_gpr(wide.operand[0], kRax * 8, 8);
  expect_gpr(wide.operand[1], kRcx * 8, 4);
  EXPECT_EQ(valid(k64, {0x66, 0x63, 0xc1}).operand[1].size, 2);
  EXPECT_EQ(valid(k32, {0x63, 0xc1}).opcode, Opcode::kArpl);
}

TEST(Decoder, ConvertFamilyBySize) {
  EXPECT_EQ(valid(k64, {0x66, 0x98}).operand_size, 2);
  EXPECT_EQ(valid(k64, {0x98}).operand_size, 4);
  EXPECT_EQ(valid(k64, {0x48, 0x99}).operand_size, 8);
}

TEST(Decoder, ConditionsOfJccSetccCmov) {
  EXPECT_EQ(valid(k64, {0x7f, 0x00}).condition, 15);
  EXPECT_EQ(valid(k64, {0x0f, 0x94, 0xc0}).condition, 4);
  EXPECT_EQ(valid(k64, {0x0f, 0x42, 0xc1}).condition, 2);
}

TEST(Decoder, EnterHasTwoImmediates) {
  const Instruction insn = valid(k32, {0xc8, 0x34, 0x12, 0x05});
  EXPECT_EQ(insn.imm, 0x1234u);
  EXPECT_EQ(insn.imm2, 5);
}

TEST(Decoder, FarPointers) {
  const Instruction insn = valid(k32, {0xea, 0x78, 0x56, 0x34, 0x12, 0x08, 0x00});
  EXPECT_EQ(insn.opcode, Opcode::kJmpFar);
  EXPECT_EQ(insn.operand[0].kind, OperandKind::kFar);
  EXPECT_EQ(insn.imm, 0x12345678u);
  EXPECT_EQ(insn.imm2, 8);
  EXPECT_EQ(valid(k16, {0x9a, 0x78, 0x56, 0x08, 0x00}).imm, 0x5678u);
  EXPECT_EQ(status(k64, {0xea, 0, 0, 0, 0, 0, 0, 0, 0}), DecodeStatus::kInvalid);
  EXPECT_EQ(status(k32, {0xff, 0xe8}), DecodeStatus::kInvalid);  // jmp far with a register
}

TEST(Decoder, PortAddresses) {
  expect_gpr(valid(k64, {0xec}).operand[1], kRdx * 8, 2);
  EXPECT_EQ(valid(k64, {0xe4, 0xf0}).imm, 0xf0u);
  EXPECT_EQ(valid(k64, {0x48, 0xed}).operand_size, 4);  // no 64-bit port access
  EXPECT_EQ(valid(k64, {0x66, 0xef}).operand[1].size, 2);
}

// ---- prefixes
// --------------------------------------------------------------------------------------------------

TEST(Decoder, OperandSizeByMode) {
  EXPECT_EQ(valid(k16, {0x01, 0xd8}).operand_size, 2);
  EXPECT_EQ(valid(k16, {0x66, 0x01, 0xd8}).operand_size, 4);
  EXPECT_EQ(valid(k32, {0x66, 0x01, 0xd8}).operand_size, 2);
  EXPECT_EQ(valid(k64, {0x66, 0x48, 0x01, 0xd8}).operand_size, 8);  // REX.W wins
}

TEST(Decoder, RexMustBeLast) {
  EXPECT_EQ(valid(k64, {0x48, 0x66, 0x01, 0xd8}).operand_size, 2);
  EXPECT_EQ(valid(k64, {0x48, 0x41, 0x01, 0xd8}).operand_size, 4);
  EXPECT_EQ(valid(k32, {0x48}).opcode, Opcode::kDec);
}

TEST(Decoder, StackDefaultsTo64) {
  EXPECT_EQ(valid(k64, {0x50}).operand_size, 8);
  EXPECT_EQ(valid(k64, {0x66, 0x50}).operand_size, 2);
  EXPECT_EQ(valid(k64, {0x68, 0xff, 0xff, 0xff, 0xff}).imm, ~uint64_t{0});
  EXPECT_EQ(valid(k64, {0x66, 0x68, 0x34, 0x12}).operand_size, 2);
  EXPECT_EQ(valid(k64, {0x9c}).operand_size, 8);
  EXPECT_EQ(valid(k64, {0xcf}).operand_size, 4);  // IRET does not
  EXPECT_EQ(valid(k64, {0xcb}).operand_size, 4);  // nor RETF
}

TEST(Decoder, NearBranchesIgnoreOperandSizeIn64BitCode) {
  EXPECT_EQ(valid(k64, {0x66, 0xe9, 0, 0, 0, 0}).operand_size, 8);
  EXPECT_EQ(valid(k64, {0x66, 0xc3}).operand_size, 8);
  EXPECT_EQ(valid(k64, {0x66, 0xff, 0xe0}).operand[0].size, 8);
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0x84, 0, 0, 0, 0}).operand_size, 8);
  EXPECT_EQ(valid(k32, {0x66, 0xe9, 0xfe, 0xff}).imm, static_cast<uint64_t>(-2));
}

TEST(Decoder, SegmentOverridesIn64BitCode) {
  EXPECT_EQ(valid(k64, {0x26, 0x8b, 0x00}).segment, kDs);
  EXPECT_EQ(valid(k64, {0x65, 0x8b, 0x00}).segment, kGs);
  EXPECT_EQ(valid(k64, {0x64, 0x3e, 0x8b, 0x00}).segment, kFs);  // the ignored prefix does not undo FS
  EXPECT_EQ(valid(k32, {0x64, 0x3e, 0x8b, 0x00}).segment, kDs);  // the last one wins
}

TEST(Decoder, MandatoryPrefixes) {
  EXPECT_EQ(valid(k64, {0x0f, 0x58, 0xc1}).opcode, Opcode::kAddps);
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0x58, 0xc1}).opcode, Opcode::kAddpd);
  EXPECT_EQ(valid(k64, {0x66, 0xf3, 0x0f, 0x58, 0xc1}).opcode, Opcode::kAddss);  // F3 wins over 66
  EXPECT_EQ(valid(k64, {0xf3, 0x66, 0x0f, 0x58, 0xc1}).opcode, Opcode::kAddss);
  EXPECT_EQ(valid(k64, {0xf3, 0xf2, 0x0f, 0x58, 0xc1}).opcode, Opcode::kAddsd);  // the last of F2 and F3
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0x58, 0xc1}).prefix, 0x66);
  EXPECT_EQ(status(k64, {0xf3, 0x0f, 0x54, 0xc1}), DecodeStatus::kInvalid);  // no ANDSS
}

TEST(Decoder, BitScansByPrefix) {
  EXPECT_EQ(valid(k64, {0x0f, 0xbc, 0xc1}).opcode, Opcode::kBsf);
  EXPECT_EQ(valid(k64, {0xf3, 0x0f, 0xbc, 0xc1}).opcode, Opcode::kTzcnt);
  EXPECT_EQ(valid(k64, {0xf2, 0x0f, 0xbd, 0xc1}).opcode, Opcode::kBsr);
  EXPECT_EQ(valid(k64, {0x66, 0xf3, 0x0f, 0xb8, 0xc1}).operand_size, 2);  // 66 still sizes POPCNT
}

TEST(Decoder, Crc32AndMovbeShareOpcodes) {
  const Instruction crc = valid(k64, {0x66, 0xf2, 0x0f, 0x38, 0xf1, 0xc1});
  EXPECT_EQ(crc.opcode, Opcode::kCrc32);
  expect_gpr(crc.operand[0], kRax * 8, 4);
  expect_gpr(crc.operand[1], kRcx * 8, 2);
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0x38, 0xf1, 0x01}).opcode, Opcode::kMovbe);
  EXPECT_EQ(status(k64, {0x0f, 0x38, 0xf1, 0xc1}), DecodeStatus::kInvalid);  // MOVBE wants memory
}

TEST(Decoder, StringsCarryRepAndSegment) {
  const Instruction insn = valid(k64, {0xf3, 0x65, 0x48, 0xa5});
  EXPECT_EQ(insn.opcode, Opcode::kMovs);
  EXPECT_TRUE(insn.rep);
  EXPECT_FALSE(insn.repne);
  EXPECT_EQ(insn.segment, kGs);
  EXPECT_EQ(insn.operand_size, 8);
  EXPECT_EQ(insn.address_size, 8);
  EXPECT_EQ(valid(k64, {0x67, 0xaa}).address_size, 4);
  EXPECT_EQ(valid(k64, {0xaa}).operand_size, 1);
  EXPECT_TRUE(valid(k64, {0xf3, 0xf2, 0xae}).repne);
  EXPECT_FALSE(valid(k64, {0xf3, 0xf2, 0xae}).rep);
}

TEST(Decoder, RepOnOrdinaryInstructionsIsIgnored) {
  const Instruction insn = valid(k64, {0xf2, 0xf0, 0x01, 0x00});  // XACQUIRE LOCK ADD
  EXPECT_EQ(insn.opcode, Opcode::kAdd);
  EXPECT_TRUE(insn.lock);
  EXPECT_FALSE(insn.repne);
  EXPECT_FALSE(valid(k64, {0xf3, 0xc3}).rep);
}

TEST(Decoder, LockNeedsMemoryDestination) {
  EXPECT_TRUE(valid(k64, {0xf0, 0x01, 0x00}).lock);
  EXPECT_EQ(status(k64, {0xf0, 0x01, 0xc0}), DecodeStatus::kInvalid);
  EXPECT_EQ(status(k64, {0xf0, 0x03, 0x00}), DecodeStatus::kInvalid);
  EXPECT_EQ(status(k64, {0xf0, 0x39, 0x00}), DecodeStatus::kInvalid);  // CMP
  EXPECT_EQ(status(k64, {0xf0, 0x89, 0x00}), DecodeStatus::kInvalid);  // MOV
  EXPECT_EQ(status(k64, {0xf0, 0x90}), DecodeStatus::kInvalid);
  EXPECT_TRUE(valid(k64, {0xf0, 0x0f, 0xc7, 0x08}).lock);                          // CMPXCHG8B
  EXPECT_TRUE(valid(k64, {0xf0, 0x0f, 0xba, 0x28, 0x01}).lock);                    // BTS
  EXPECT_EQ(status(k64, {0xf0, 0x0f, 0xba, 0x20, 0x01}), DecodeStatus::kInvalid);  // BT
}

// ---- addressing
// ------------------------------------------------------------------------------------------------

TEST(Decoder, SixteenBitAddressing) {
  const Instruction bp_di = valid(k16, {0x8b, 0x43, 0xfe});
  EXPECT_EQ(bp_di.base, kRbp * 8);
  EXPECT_EQ(bp_di.index, kRdi * 8);
  EXPECT_EQ(bp_di.disp, -2);
  EXPECT_EQ(bp_di.segment, kSs);
  const Instruction absolute = valid(k16, {0x8b, 0x06, 0x34, 0x12});
  EXPECT_EQ(absolute.base, kNoRegister);
  EXPECT_EQ(absolute.disp, 0x1234);
  EXPECT_EQ(absolute.segment, kDs);
}

TEST(Decoder, SibForms) {
  const Instruction full = valid(k64, {0x4a, 0x8b, 0x84, 0xe5, 0x00, 0x01, 0x00, 0x00});
  EXPECT_EQ(full.base, kRbp * 8);
  EXPECT_EQ(full.index, kR12 * 8);
  EXPECT_EQ(full.scale, 3);
  EXPECT_EQ(full.disp, 0x100);
  EXPECT_EQ(full.segment, kSs);
  EXPECT_EQ(valid(k64, {0x8b, 0x04, 0x24}).index, kNoRegister);
  // mod 0, base 101b: displacement only, with REX.B as well
  const Instruction no_base = valid(k64, {0x41, 0x8b, 0x04, 0x25, 0xff, 0xff, 0xff, 0xff});
  EXPECT_EQ(no_base.base, kNoRegister);
  EXPECT_EQ(no_base.disp, -1);
  EXPECT_EQ(no_base.segment, kDs);
  EXPECT_EQ(valid(k64, {0x41, 0x8b, 0x45, 0x00}).segment, kDs);  // R13 is not RBP
}

TEST(Decoder, RipRelative) {
  const Instruction insn = valid(k64, {0x8b, 0x05, 0x10, 0x00, 0x00, 0x00});
  EXPECT_EQ(insn.base, kRipBase);
  EXPECT_EQ(insn.disp, 0x10);
  EXPECT_EQ(valid(k64, {0x67, 0x8b, 0x05, 0, 0, 0, 0}).address_size, 4);
  EXPECT_EQ(valid(k32, {0x8b, 0x05, 0, 0, 0, 0}).base, kNoRegister);
}

// ---- system
// ----------------------------------------------------------------------------------------------------

TEST(Decoder, ControlRegisters) {
  const Instruction insn = valid(k64, {0x44, 0x0f, 0x20, 0xc0});  // mov rax, cr8
  EXPECT_EQ(insn.operand[1].kind, OperandKind::kControl);
  EXPECT_EQ(insn.operand[1].index, 8);
  expect_gpr(insn.operand[0], kRax * 8, 8);
  EXPECT_EQ(status(k64, {0x0f, 0x20, 0xc8}), DecodeStatus::kInvalid);        // CR1
  EXPECT_EQ(status(k64, {0x44, 0x0f, 0x21, 0xc0}), DecodeStatus::kInvalid);  // DR8
  const Instruction any_mod = valid(k32, {0x0f, 0x22, 0x18});                // mod is ignored
  EXPECT_FALSE(any_mod.has_memory());
  expect_gpr(any_mod.operand[1], kRax * 8, 4);
}

TEST(Decoder, SegmentRegisters) {
  EXPECT_EQ(status(k32, {0x8e, 0xc8}), DecodeStatus::kInvalid);  // mov cs, ax
  EXPECT_EQ(status(k32, {0x8c, 0xf0}), DecodeStatus::kInvalid);  // no such register
  const Instruction store = valid(k32, {0x8c, 0x18});
  EXPECT_EQ(store.operand[0].size, 2);
  EXPECT_EQ(store.operand[1].index, kDs);
  EXPECT_EQ(valid(k64, {0x48, 0x8c, 0xd8}).operand[0].size, 8);
  EXPECT_EQ(valid(k64, {0x0f, 0xa8}).operand[0].index, kGs);
  EXPECT_EQ(status(k64, {0x06}), DecodeStatus::kInvalid);
}

TEST(Decoder, GroupSevenRegisterForms) {
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0xf8}).opcode, Opcode::kSwapgs);
  EXPECT_EQ(status(k32, {0x0f, 0x01, 0xf8}), DecodeStatus::kInvalid);
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0xc1}).opcode, Opcode::kVmcall);
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0xd9}).opcode, Opcode::kVmmcall);
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0xcb}).opcode, Opcode::kStac);
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0xe8}).opcode, Opcode::kSerialize);
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0x38}).opcode, Opcode::kInvlpg);
  EXPECT_EQ(valid(k64, {0x0f, 0x01, 0x10}).operand_size, 8);
  EXPECT_EQ(valid(k32, {0x66, 0x0f, 0x01, 0x10}).operand_size, 2);
}

TEST(Decoder, GroupFifteen) {
  EXPECT_EQ(valid(k64, {0x0f, 0xae, 0x38}).opcode, Opcode::kClflush);
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0xae, 0x38}).opcode, Opcode::kClflushopt);
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0xae, 0x30}).opcode, Opcode::kClwb);
  EXPECT_EQ(valid(k64, {0x0f, 0xae, 0xef}).opcode, Opcode::kLfence);
  EXPECT_EQ(valid(k64, {0xf3, 0x48, 0x0f, 0xae, 0xd0}).opcode, Opcode::kWrfsbase);
  EXPECT_EQ(status(k32, {0xf3, 0x0f, 0xae, 0xd0}), DecodeStatus::kInvalid);
}

TEST(Decoder, HintsAreNops) {
  EXPECT_EQ(valid(k64, {0xf3, 0x0f, 0x1e, 0xfa}).opcode, Opcode::kNop);  // ENDBR64
  EXPECT_EQ(valid(k64, {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00}).opcode, Opcode::kNop);
  EXPECT_EQ(valid(k64, {0x0f, 0x18, 0x08}).opcode, Opcode::kPrefetch);
  EXPECT_EQ(valid(k64, {0x0f, 0x0d, 0x08}).opcode, Opcode::kPrefetchw);
}

TEST(Decoder, CompareExchangeBySize) {
  EXPECT_EQ(valid(k64, {0x0f, 0xc7, 0x08}).opcode, Opcode::kCmpxchg8b);
  EXPECT_EQ(valid(k64, {0x48, 0x0f, 0xc7, 0x08}).operand[0].size, 16);
  EXPECT_EQ(valid(k64, {0x0f, 0xc7, 0xf0}).opcode, Opcode::kRdrand);
  EXPECT_EQ(valid(k64, {0xf3, 0x0f, 0xc7, 0xf8}).operand[0].size, 8);  // RDPID
}

TEST(Decoder, NotOffered) {
  EXPECT_EQ(status(k64, {0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1}), DecodeStatus::kInvalid);  // EVEX
  EXPECT_EQ(status(k64, {0x8f, 0xe9, 0x78, 0xc1, 0xc0}), DecodeStatus::kInvalid);        // XOP
  EXPECT_EQ(status(k64, {0x0f, 0x0f, 0xc1, 0x9e}), DecodeStatus::kInvalid);              // 3DNow
  EXPECT_EQ(status(k64, {0x0f, 0x78, 0xc1}), DecodeStatus::kInvalid);                    // VMREAD
  EXPECT_EQ(status(k64, {0xf3, 0x0f, 0x2b, 0x00}), DecodeStatus::kInvalid);              // MOVNTSS
  EXPECT_EQ(status(k64, {0x0f, 0x01, 0xd8}), DecodeStatus::kInvalid);                    // VMRUN
}

// ---- VEX
// -------------------------------------------------------------------------------------------------------

TEST(Decoder, VexOrLes) {
  EXPECT_EQ(valid(k32, {0xc4, 0x06}).opcode, Opcode::kLes);
  EXPECT_EQ(valid(k32, {0xc5, 0x06}).opcode, Opcode::kLds);
  EXPECT_EQ(valid(k32, {0xc5, 0xf8, 0x58, 0xc1}).opcode, Opcode::kAddps);
  EXPECT_EQ(valid(k64, {0xc5, 0x38, 0x58, 0xc1}).operand[0].index, 8);
}

TEST(Decoder, VexFields) {
  const Instruction insn = valid(k64, {0xc4, 0x41, 0x05, 0x58, 0xc1});  // vaddpd ymm8, ymm15, ymm9
  EXPECT_EQ(insn.opcode, Opcode::kAddpd);
  EXPECT_EQ(insn.encoding, Encoding::kVex);
  EXPECT_EQ(insn.map, 1);
  EXPECT_EQ(insn.prefix, 0x66);
  EXPECT_EQ(insn.opcode_byte, 0x58);
  EXPECT_EQ(insn.modrm, 0xc1);
  EXPECT_TRUE(insn.vex_l);
  EXPECT_FALSE(insn.vex_w);
  expect_vector(insn.operand[0], 8, 32);
  expect_vector(insn.operand[1], 15, 32);
  expect_vector(insn.operand[2], 9, 32);
}

TEST(Decoder, VexRejectsLegacyPrefixes) {
  for (const uint8_t prefix : Bytes{0x66, 0xf2, 0xf3, 0xf0, 0x48})
    EXPECT_EQ(status(k64, {prefix, 0xc5, 0xf8, 0x58, 0xc1}), DecodeStatus::kInvalid);
  EXPECT_EQ(valid(k64, {0x64, 0x67, 0xc5, 0xf8, 0x58, 0x00}).segment, kFs);
}

TEST(Decoder, UnusedVvvvMustBeOnes) {
  EXPECT_EQ(status(k64, {0xc5, 0xf8, 0x28, 0xc1}), DecodeStatus::kOk);  // vmovaps
  EXPECT_EQ(status(k64, {0xc5, 0xf0, 0x28, 0xc1}), DecodeStatus::kInvalid);
}

TEST(Decoder, VexLengthRules) {
  EXPECT_EQ(status(k64, {0xc5, 0xf9, 0x6e, 0xc0}), DecodeStatus::kOk);             // vmovd
  EXPECT_EQ(status(k64, {0xc5, 0xfd, 0x6e, 0xc0}), DecodeStatus::kInvalid);        // L = 1
  EXPECT_EQ(status(k64, {0xc4, 0xe2, 0x79, 0x16, 0xc1}), DecodeStatus::kInvalid);  // vpermps with L = 0
  EXPECT_EQ(status(k64, {0xc5, 0xfe, 0x58, 0xc1}), DecodeStatus::kOk);             // scalar: ignored
  EXPECT_EQ(status(k64, {0xc4, 0xe2, 0xfd, 0x16, 0xc1}), DecodeStatus::kInvalid);  // W = 1
  EXPECT_EQ(valid(k64, {0xc5, 0xfc, 0x77}).opcode, Opcode::kVzeroall);
  EXPECT_EQ(valid(k64, {0xc5, 0xf8, 0x77}).opcode, Opcode::kVzeroupper);
}

TEST(Decoder, VexMoveScalarByForm) {
  EXPECT_EQ(valid(k64, {0xc5, 0xf2, 0x10, 0xc2}).operand_count, 3);
  EXPECT_EQ(valid(k64, {0xc5, 0xfa, 0x10, 0x00}).operand_count, 2);
  EXPECT_EQ(status(k64, {0xc5, 0xf2, 0x10, 0x00}), DecodeStatus::kInvalid);  // vvvv unused with memory
}

TEST(Decoder, RegisterInImmediate) {
  const Instruction insn =
      valid(k64, {0xc4, 0xe3, 0x71, 0x4a, 0xc2, 0xb5});  // vblendvps xmm0, xmm1, xmm2, xmm11
  expect_vector(insn.operand[3], 11, 16);
  EXPECT_EQ(insn.imm, 0xb5u);
  EXPECT_EQ(valid(k32, {0xc4, 0xe3, 0x71, 0x4a, 0xc2, 0xb5}).operand[3].index, 3);
}

TEST(Decoder, GathersNeedThreeRegisters) {
  const Instruction insn =
      valid(k64, {0xc4, 0xe2, 0x69, 0x92, 0x0c, 0xa8});  // vgatherdps xmm1, [rax+xmm5*4], xmm2
  EXPECT_EQ(insn.vector_index, 5);
  EXPECT_EQ(insn.index, kNoRegister);
  EXPECT_EQ(insn.scale, 2);
  expect_vector(insn.operand[2], 2, 16);
  EXPECT_EQ(status(k64, {0xc4, 0xe2, 0x69, 0x92, 0x0c, 0x88}),
            DecodeStatus::kInvalid);  // index is destination
  EXPECT_EQ(status(k64, {0xc4, 0xe2, 0x71, 0x92, 0x0c, 0xa8}),
            DecodeStatus::kInvalid);                                               // mask is destination
  EXPECT_EQ(status(k64, {0xc4, 0xe2, 0x69, 0x92, 0x08}), DecodeStatus::kInvalid);  // no SIB
}

TEST(Decoder, VexGeneralRegisters) {
  const Instruction andn = valid(k64, {0xc4, 0xe2, 0xf0, 0xf2, 0xc2});  // andn rax, rcx, rdx
  EXPECT_EQ(andn.opcode, Opcode::kAndn);
  expect_gpr(andn.operand[0], kRax * 8, 8);
  expect_gpr(andn.operand[1], kRcx * 8, 8);
  expect_gpr(andn.operand[2], kRdx * 8, 8);
  EXPECT_EQ(valid(k32, {0xc4, 0xe2, 0xf0, 0xf2, 0xc2}).operand_size, 4);  // W is ignored
}

// ---- length
// ----------------------------------------------------------------------------------------------------

TEST(Decoder, EveryTruncationIsReported) {
  const Bytes whole[] = {
      {0x66, 0x64, 0x42, 0x81, 0x84, 0xa8, 1, 2, 3, 4, 5, 6},
      {0xc4, 0xe3, 0x71, 0x4a, 0x84, 0x88, 1, 2, 3, 4, 0x50},
      {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8},
      {0x0f, 0x3a, 0x0f, 0xc1, 0x04},
      {0xc8, 1, 2, 3},
  };
  for (const Bytes& code : whole) {
    EXPECT_EQ(status(k64, code), DecodeStatus::kOk);
    for (size_t length = 0; length < code.size(); ++length)
      EXPECT_EQ(status(k64, Bytes(code.begin(), code.begin() + static_cast<long>(length))),
                DecodeStatus::kTruncated);
  }
}

TEST(Decoder, FifteenBytesAtMost) {
  Bytes code(14, 0x66);
  code.push_back(0x90);
  EXPECT_EQ(valid(k64, code).length, 15);
  code.insert(code.begin(), 0x66);
  EXPECT_EQ(status(k64, code), DecodeStatus::kTooLong);
  EXPECT_EQ(status(k64, Bytes(15, 0x66)), DecodeStatus::kTooLong);
  EXPECT_EQ(status(k64, Bytes(14, 0x66)), DecodeStatus::kTruncated);
  Bytes immediate(10, 0x66);
  immediate.insert(immediate.end(), {0xc7, 0x04, 0x24, 1, 2, 3, 4, 5});
  EXPECT_EQ(status(k16, immediate), DecodeStatus::kTooLong);
}

TEST(Decoder, InvalidReportsItsLength) {
  Instruction insn;
  EXPECT_EQ(decode(Bytes{0x66, 0xf0, 0x90, 0x90}, k64, insn), DecodeStatus::kInvalid);
  EXPECT_EQ(insn.length, 3);
}

}  // namespace
}  // namespace ostler::x86
