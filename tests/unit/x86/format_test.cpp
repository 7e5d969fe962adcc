#include "x86/format.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ostler::x86 {
namespace {

std::string text(std::vector<uint8_t> code, CodeSize code_size = CodeSize::k64, uint64_t rip = 0x1000) {
  Instruction insn;
  EXPECT_EQ(decode(code, code_size, insn), DecodeStatus::kOk);
  return format(insn, rip);
}

TEST(Format, Registers) {
  EXPECT_EQ(text({0x48, 0x01, 0xd8}), "add rax, rbx");
  EXPECT_EQ(text({0x45, 0x88, 0xe0}), "mov r8b, r12b");
  EXPECT_EQ(text({0x88, 0xe0}), "mov al, ah");
}
TEST(Format, Memory) {
  EXPECT_EQ(text({0x8b, 0x44, 0x8d, 0xfe}), "mov eax, dword ss:[rbp+rcx*4-0x2]");
  EXPECT_EQ(text({0x8b, 0x05, 0x10, 0, 0, 0}), "mov eax, dword ds:[0x1016]");
}
TEST(Format, RelativeTargetsAreAddresses) {
  EXPECT_EQ(text({0x74, 0xfe}), "jz 0x1000");
  EXPECT_EQ(text({0xe8, 0xfc, 0xff}, CodeSize::k16, 0), "call 0xffff");
}
TEST(Format, Prefixes) {
  EXPECT_EQ(text({0xf0, 0x83, 0x00, 0xff}), "lock add dword ds:[rax], 0xffffffff");
  EXPECT_EQ(text({0xf3, 0x48, 0xa5}), "rep movsq");
}
TEST(Format, Vectors) {
  EXPECT_EQ(text({0xc5, 0xfb, 0x58, 0xc1}), "vaddsd xmm0, xmm0, xmm1");
  EXPECT_EQ(text({0xc4, 0xe2, 0x69, 0x92, 0x0c, 0xa8}), "vgatherdps xmm1, dword ds:[rax+xmm5*4], xmm2");
  EXPECT_EQ(text({0xc4, 0xe2, 0x70, 0xf2, 0xc2}), "andn eax, ecx, edx");
}

}  // namespace
}  // namespace ostler::x86
