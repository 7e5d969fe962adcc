// vector_info() and opcode_feature() where no other source of truth is compared (decoder_zydis_test does the
// rest).
#include <gtest/gtest.h>

#include <vector>

#include "x86/vector_info.h"

namespace ostler::x86 {
namespace {

Instruction decoded(std::vector<uint8_t> code, CodeSize code_size = CodeSize::k64) {
  Instruction insn;
  EXPECT_EQ(decode(code, code_size, insn), DecodeStatus::kOk);
  return insn;
}
VectorInfo info(std::vector<uint8_t> code, CodeSize code_size = CodeSize::k64) {
  return vector_info(decoded(std::move(code), code_size));
}

TEST(VectorInfo, IntegerInstructionsHaveNoClass) {
  EXPECT_EQ(info({0x01, 0xd8}).vector_class, VectorClass::kNone);
  EXPECT_EQ(info({0xc4, 0xe2, 0xf0, 0xf2, 0xc2}).vector_class, VectorClass::kNone);  // ANDN
  EXPECT_EQ(info({0x0f, 0xc3, 0x00}).vector_class, VectorClass::kNone);              // MOVNTI
}

TEST(VectorInfo, LegacyFullWidthOperandsAreAligned) {
  EXPECT_EQ(info({0x0f, 0x58, 0x00}).alignment, 16);  // addps
  EXPECT_EQ(info({0x0f, 0x10, 0x00}).alignment, 1);   // movups
  EXPECT_EQ(info({0xf3, 0x0f, 0x58, 0x00}).alignment, 1);
}

TEST(VectorInfo, VexIsAlignedOnlyWhereItSaysSo) {
  EXPECT_EQ(info({0xc5, 0xfc, 0x58, 0x00}).alignment, 1);
  EXPECT_EQ(info({0xc5, 0xfc, 0x28, 0x00}).alignment, 32);  // vmovaps ymm
  EXPECT_EQ(info({0xc5, 0xf9, 0xe7, 0x00}).alignment, 16);  // vmovntdq xmm
}

TEST(VectorInfo, X87MemorySizes) {
  EXPECT_EQ(info({0xd9, 0x30}).memory_size, 28);  // fnstenv
  EXPECT_EQ(info({0xd9, 0x30}).access, MemoryAccess::kWrite);
  EXPECT_EQ(info({0x66, 0xd9, 0x20}).memory_size, 14);
  EXPECT_EQ(info({0xdd, 0x20}).memory_size, 108);  // frstor
  EXPECT_EQ(info({0xdd, 0x20}).access, MemoryAccess::kRead);
  EXPECT_EQ(info({0xdb, 0x28}).memory_size, 10);
  EXPECT_EQ(info({0xdd, 0x30}, CodeSize::k16).memory_size, 94);
}

TEST(VectorInfo, X87Waiting) {
  EXPECT_TRUE(info({0xd8, 0xc1}).waits);
  EXPECT_FALSE(info({0xdb, 0xe3}).waits);  // fninit
  EXPECT_FALSE(info({0xdf, 0xe0}).waits);  // fnstsw ax
  EXPECT_EQ(info({0xdf, 0xe0}).gpr_write, 1);
  EXPECT_TRUE(info({0xd9, 0x28}).waits);  // fldcw waits, and is a control instruction
  EXPECT_TRUE(info({0xd9, 0x28}).x87_control);
}

TEST(VectorInfo, MmxInsideSse) {
  EXPECT_TRUE(info({0x0f, 0x2a, 0x00}).mmx);         // cvtpi2ps xmm, m64
  EXPECT_FALSE(info({0x66, 0x0f, 0x2a, 0x00}).mmx);  // cvtpi2pd xmm, m64 leaves the x87 state alone
  EXPECT_TRUE(info({0x66, 0x0f, 0x2a, 0xc0}).mmx);
  EXPECT_EQ(info({0x0f, 0xfc, 0xc1}).vector_class, VectorClass::kMmx);
}

TEST(VectorInfo, ImplicitOperands) {
  EXPECT_TRUE(info({0x66, 0x0f, 0x38, 0x14, 0xc1}).implicit_xmm0);  // blendvps
  const VectorInfo estri = info({0x66, 0x0f, 0x3a, 0x61, 0xc1, 0x00});
  EXPECT_TRUE(estri.writes_ecx);
  EXPECT_TRUE(estri.reads_eax_edx);
  EXPECT_TRUE(estri.writes_flags);
  EXPECT_TRUE(info({0x66, 0x0f, 0x3a, 0x62, 0xc1, 0x00}).writes_xmm0);
  const VectorInfo mask = info({0x66, 0x0f, 0xf7, 0xc1});
  EXPECT_TRUE(mask.implicit_rdi);
  EXPECT_EQ(mask.access, MemoryAccess::kWrite);
  EXPECT_EQ(mask.memory_size, 16);
  EXPECT_EQ(info({0x0f, 0xf7, 0xc1}).memory_size, 8);
}

TEST(VectorInfo, GathersAndMaskedMoves) {
  const VectorInfo gather = info({0xc4, 0xe2, 0x69, 0x92, 0x0c, 0xa8});
  EXPECT_TRUE(gather.gather);
  EXPECT_EQ(gather.memory_size, 4);
  EXPECT_EQ(gather.gather_index_size, 4);
  EXPECT_EQ(info({0xc4, 0xe2, 0xe9, 0x91, 0x0c, 0xa8}).gather_index_size, 8);
  EXPECT_EQ(info({0xc4, 0xe2, 0x75, 0x2f, 0x10}).mask_element_size, 8);  // vmaskmovpd [rax], ymm1, ymm2
  EXPECT_EQ(info({0xc4, 0xe2, 0x75, 0x2f, 0x10}).access, MemoryAccess::kWrite);
}

TEST(VectorInfo, PartialMemoryOperands) {
  EXPECT_EQ(info({0x66, 0x0f, 0x3a, 0x20, 0x00, 0x01}).memory_size, 1);  // pinsrb
  EXPECT_EQ(info({0x66, 0x0f, 0xc4, 0x00, 0x01}).memory_size, 2);
  EXPECT_EQ(info({0x66, 0x0f, 0x3a, 0x21, 0x00, 0x01}).memory_size, 4);  // insertps
  EXPECT_EQ(info({0xc5, 0xfb, 0x12, 0x00}).memory_size, 8);              // vmovddup xmm
  EXPECT_EQ(info({0xc5, 0xff, 0x12, 0x00}).memory_size, 32);
  EXPECT_EQ(info({0xc4, 0xe2, 0x7d, 0x22, 0x00}).memory_size, 4);  // vpmovsxbq ymm
}

TEST(VectorInfo, MxcsrLoadAndStore) {
  EXPECT_EQ(info({0x0f, 0xae, 0x10}).access, MemoryAccess::kRead);
  EXPECT_EQ(info({0x0f, 0xae, 0x18}).access, MemoryAccess::kWrite);
}

TEST(OpcodeFeature, WiderFormsNeedMore) {
  EXPECT_EQ(opcode_feature(decoded({0xc5, 0xf9, 0xfc, 0xc1})), Feature::kAvx);
  EXPECT_EQ(opcode_feature(decoded({0xc5, 0xfd, 0xfc, 0xc1})), Feature::kAvx2);
  EXPECT_EQ(opcode_feature(decoded({0xc4, 0xe2, 0x79, 0xdc, 0xc1})), Feature::kAes);
  EXPECT_EQ(opcode_feature(decoded({0xc4, 0xe2, 0x7d, 0xdc, 0xc1})), Feature::kVaes);
}

TEST(OpcodeFeature, BaselineNeedsNothing) {
  EXPECT_EQ(opcode_feature(decoded({0x01, 0xd8})), kNoFeature);
}

}  // namespace
}  // namespace ostler::x86
