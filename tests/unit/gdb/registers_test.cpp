#include "gdb/registers.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/bytes.h"
#include "gdb/target_description.h"
#include "unit/gdb/fake_target.h"

namespace ostler::gdb {
namespace {

struct Registers : ::testing::Test {
  FakeTarget target;
  x86::CpuState& s = target.states[1];

  static const Register& named(std::string_view name) {
    const auto all = registers();
    return *std::find_if(all.begin(), all.end(), [&](const Register& each) { return each.name == name; });
  }
  uint64_t read(std::string_view name) {
    std::vector<std::byte> bytes = read_register(target, 1, named(name));
    EXPECT_EQ(bytes.size(), named(name).bytes());
    bytes.resize(8);
    return load_le<uint64_t>(bytes.data());
  }
  bool write(std::string_view name, uint64_t value) {
    std::vector<std::byte> bytes(std::max<size_t>(named(name).bytes(), 8));
    store_le(bytes.data(), value);
    bytes.resize(named(name).bytes());
    return write_register(target, 1, named(name), bytes);
  }
};

TEST_F(Registers, TheFirstAreWhereClientsWithoutADescriptionLook) {
  constexpr std::string_view kFirst[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8",
                                         "r9",  "r10", "r11", "r12", "r13", "r14", "r15", "rip", "eflags",
                                         "cs",  "ss",  "ds",  "es",  "fs",  "gs",  "st0"};
  for (size_t i = 0; i < std::size(kFirst); ++i) EXPECT_EQ(registers()[i].name, kFirst[i]);
  EXPECT_EQ(registers()[56].name, "mxcsr");
}

TEST_F(Registers, GeneralOnesAreReadAndWritten) {
  s.gpr[x86::kRbx] = 0x1122334455667788;
  EXPECT_EQ(read("rbx"), 0x1122334455667788u);
  EXPECT_TRUE(write("rsi", 5));
  EXPECT_EQ(s.gpr[x86::kRsi], 5u);
  EXPECT_TRUE(write("r15", 6));
  EXPECT_EQ(s.gpr[15], 6u);
}

TEST_F(Registers, FlagsThatChangeTheModeStay) {
  EXPECT_TRUE(write("eflags", 0xffffffff));
  EXPECT_EQ(read("eflags"), 0x3d7fd7u);
  EXPECT_FALSE(s.v8086());
  EXPECT_TRUE(write("eflags", 0));
  EXPECT_EQ(read("eflags"), 2u);
}

TEST_F(Registers, WhatSelectsTheModeIsNotWritten) {
  for (const char* name : {"cs", "cr0", "cr3", "cr4", "efer"}) EXPECT_FALSE(write(name, 1)) << name;
}

TEST_F(Registers, BasesMustBeCanonical) {
  EXPECT_FALSE(write("gs_base", uint64_t{1} << 47));
  EXPECT_TRUE(write("gs_base", ~uint64_t{0} << 47));
  EXPECT_EQ(s.seg[x86::kGs].base, ~uint64_t{0} << 47);
  EXPECT_TRUE(write("k_gs_base", 0x1000));
  EXPECT_EQ(s.msr.kernel_gs_base, 0x1000u);
}

TEST_F(Registers, TheTaskPriorityIsTheLocalApics) {
  EXPECT_TRUE(write("cr8", 9));
  EXPECT_EQ(target.apic_priority[1], 9);
  EXPECT_EQ(read("cr8"), 9u);
  EXPECT_FALSE(write("cr8", 16));
}

TEST_F(Registers, TagsAreInTheOrderOfTheRegistersNotTheStack) {
  s.fx.fsw = 6 << 11;  // ST(0) is R6, ST(1) is R7
  s.fx.ftw = 0xc0;
  store_le<uint64_t>(s.fx.st[0], uint64_t{1} << 63);
  store_le<uint16_t>(s.fx.st[0] + 8, 0x3fff);  // 1.0
  EXPECT_EQ(read("ftag"), 0x4fffu);            // R6 valid, R7 zero, the others empty
  EXPECT_TRUE(write("ftag", 0xfffc));
  EXPECT_EQ(s.fx.ftw, 1);
}

TEST_F(Registers, ThePointersOfTheX87AreInTwoParts) {
  s.fx.fip = 0x0000123456789abc;
  EXPECT_EQ(read("fiseg"), 0x1234u);
  EXPECT_EQ(read("fioff"), 0x56789abcu);
  EXPECT_TRUE(write("foseg", 0x7fff));
  EXPECT_TRUE(write("fooff", 0x80000000));
  EXPECT_EQ(s.fx.fdp, 0x7fff80000000u);
}

TEST_F(Registers, VectorsAreInHalves) {
  for (unsigned i = 0; i < 32; ++i) s.vec[3][i] = static_cast<uint8_t>(i);
  EXPECT_EQ(read("xmm3"), 0x0706050403020100u);
  EXPECT_EQ(read("ymm3h"), 0x1716151413121110u);
  EXPECT_TRUE(write("ymm15h", 77));
  EXPECT_EQ(s.vec[15][16], 77);
  EXPECT_FALSE(write("mxcsr", 0x10000));
  EXPECT_TRUE(write("mxcsr", 0x1fc0));
}

TEST_F(Registers, EachIsInTheDescription) {
  const std::string& text = target_description();
  for (const Register& each : registers())
    EXPECT_NE(
        text.find("<reg name=\"" + std::string(each.name) + "\" bitsize=\"" + std::to_string(each.bits)),
        std::string::npos)
        << each.name;
  for (const char* feature :
       {"org.gnu.gdb.i386.core", "org.gnu.gdb.i386.sse", "org.gnu.gdb.i386.avx", "org.gnu.gdb.i386.segments"})
    EXPECT_NE(text.find(feature), std::string::npos) << feature;
}

}  // namespace
}  // namespace ostler::gdb
