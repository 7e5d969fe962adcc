// Hardware task switching by JMP, CALL, gates, interrupts and IRET, and the I/O permission bitmap.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Vector;
namespace rflags = x86::rflags;

// A runnable task in the 32-bit TSS at `tss`.
void fill_tss32(Guest& g, uint32_t tss, uint16_t code, uint16_t data, uint32_t eip) {
  g.poke<uint32_t>(tss + 0x20, eip);
  g.poke<uint32_t>(tss + 0x24, rflags::kSf | 2);
  for (unsigned i = 0; i < 8; ++i) g.poke<uint32_t>(tss + 0x28 + 4 * i, 0x1000 + i);
  g.poke<uint32_t>(tss + 0x38, kStack1);
  const uint16_t selectors[] = {data, code, data, data, 0, 0};
  for (unsigned i = 0; i < 6; ++i) g.poke<uint16_t>(tss + 0x48 + 4 * i, selectors[i]);
  g.poke<uint16_t>(tss + 0x60, 0);
}

uint8_t access(Guest& g, uint16_t selector) {
  return g.peek<uint8_t>(kGdt + selector + 5);
}

std::optional<x86::Exception> jmp(Guest& g, uint8_t selector) {
  return g.execute({0xea, 0, 0, 0, 0, selector, 0});
}
std::optional<x86::Exception> call(Guest& g, uint8_t selector) {
  return g.execute({0x9a, 0, 0, 0, 0, selector, 0});
}
constexpr std::initializer_list<uint8_t> kIret = {0xcf};

TEST(TaskSwitch, jump_saves_the_old_task_and_loads_the_new) {
  Guest g;
  g.protected_mode(0);
  fill_tss32(g, kTss2, kCode0, kData0, kHandler);
  g.s.gpr[x86::kRsi] = 0x5151;
  EXPECT_FALSE(jmp(g, kTss2Sel));
  EXPECT_EQ(g.s.rip, kHandler);
  EXPECT_EQ(g.s.gpr[x86::kRax], 0x1000u);
  EXPECT_EQ(g.s.gpr[x86::kRdi], 0x1007u);
  EXPECT_EQ(g.rsp(), kStack1);
  EXPECT_EQ(g.s.rflags(), rflags::kSf | 2);
  EXPECT_EQ(g.s.tr.selector, kTss2Sel);
  EXPECT_NE(g.s.cr0 & x86::cr0::kTs, 0u);
  EXPECT_EQ(g.peek<uint32_t>(kTss + 0x20), kCode + 7);
  EXPECT_EQ(g.peek<uint32_t>(kTss + 0x40), 0x5151u);
  EXPECT_EQ(access(g, kTssSel), 0x89);  // no longer busy
  EXPECT_EQ(access(g, kTss2Sel), 0x8b);
}

TEST(TaskSwitch, call_nests_and_iret_returns) {
  Guest g;
  g.protected_mode(0);
  fill_tss32(g, kTss2, kCode0, kData0, kHandler);
  EXPECT_FALSE(call(g, kTss2Sel));
  EXPECT_TRUE(g.s.flag(rflags::kNt));
  EXPECT_EQ(g.peek<uint16_t>(kTss2), kTssSel);
  EXPECT_EQ(access(g, kTssSel), 0x8b);
  EXPECT_FALSE(g.execute(kIret));
  EXPECT_EQ(g.s.rip, kCode + 7);
  EXPECT_EQ(g.s.tr.selector, kTssSel);
  EXPECT_FALSE(g.s.flag(rflags::kNt));
  EXPECT_EQ(access(g, kTss2Sel), 0x89);
  EXPECT_EQ(g.peek<uint32_t>(kTss2 + 0x20), kHandler + 1);
  EXPECT_FALSE(g.peek<uint32_t>(kTss2 + 0x24) & rflags::kNt);
  EXPECT_EQ(g.rsp(), kStack0);
}

TEST(TaskSwitch, through_a_task_gate) {
  Guest g;
  g.protected_mode(3);
  fill_tss32(g, kTss2, kCode0, kData0, kHandler);
  EXPECT_FALSE(call(g, kTaskGate));
  EXPECT_EQ(g.s.rip, kHandler);
  EXPECT_EQ(g.s.cpl(), 0u);
}

TEST(TaskSwitch, exception_through_a_task_gate_pushes_its_error_on_the_new_stack) {
  Guest g;
  g.protected_mode(3);
  fill_tss32(g, kTss2, kCode0, kData0, kHandler);
  g.set_idt(13, gate(kTss2Sel, 0, 0x85));
  EXPECT_EQ(deliver_exception(g.cpu, {Vector::kGp, true, 0x77}), Delivered::kOk);
  EXPECT_EQ(g.s.rip, kHandler);
  EXPECT_EQ(g.rsp(), kStack1 - 4);
  EXPECT_EQ(g.stack32(0), 0x77u);
  EXPECT_EQ(g.peek<uint32_t>(kTss + 0x20), kCode);
  EXPECT_TRUE(g.peek<uint32_t>(kTss + 0x24) & rflags::kRf);
}

TEST(TaskSwitch, to_a_16_bit_task) {
  Guest g;
  g.protected_mode(0);
  g.poke<uint16_t>(kTss16 + 0x0e, 0x9000);
  g.poke<uint16_t>(kTss16 + 0x10, 2);
  for (unsigned i = 0; i < 8; ++i) g.poke<uint16_t>(kTss16 + 0x12 + 2 * i, static_cast<uint16_t>(0x2000 + i));
  const uint16_t selectors[] = {kData16, kCode16, kData16, kData16};
  for (unsigned i = 0; i < 4; ++i) g.poke<uint16_t>(kTss16 + 0x22 + 2 * i, selectors[i]);
  EXPECT_FALSE(jmp(g, kTss16Sel));
  EXPECT_EQ(g.s.rip, 0x9000u);
  EXPECT_EQ(g.s.gpr[x86::kRcx] & 0xffff, 0x2001u);
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k16);
  EXPECT_FALSE(g.s.seg[x86::kFs].usable());
}

TEST(TaskSwitch, faults_in_the_old_task) {
  struct Case {
    const char* what;
    unsigned cpl;
    uint64_t descriptor;
    Vector vector;
    uint32_t error;
  };
  for (const Case& c :
       {Case{"DPL below CPL", 3, descriptor(kTss2, 0x67, 0x89, 0), Vector::kGp, kTss2Sel},
        Case{"busy", 0, descriptor(kTss2, 0x67, 0x8b, 0), Vector::kGp, kTss2Sel},
        Case{"absent", 0, descriptor(kTss2, 0x67, 0x09, 0), Vector::kNp, kTss2Sel},
        Case{"limit too small", 0, descriptor(kTss2, 0x66, 0x89, 0), Vector::kTs, kTss2Sel}}) {
    Guest g;
    g.protected_mode(c.cpl);
    fill_tss32(g, kTss2, kCode0, kData0, kHandler);
    g.set_gdt(kTss2Sel, c.descriptor);
    expect_fault(jmp(g, kTss2Sel), c.vector, c.error, c.what);
    EXPECT_EQ(g.s.tr.selector, kTssSel) << c.what;
  }
}

TEST(TaskSwitch, faults_in_the_new_task_are_delivered_there) {
  struct Case {
    const char* what;
    uint16_t code, data;
    unsigned vector;
    uint32_t error;
  };
  for (const Case& c :
       {Case{"null CS", 0, kData0, 10, 0}, Case{"data in CS", kData0, kData0, 10, kData0},
        Case{"absent CS", kAbsentCode, kData0, 11, kAbsentCode}, Case{"null SS", kCode0, 0, 10, 0},
        Case{"absent SS", kCode0, kAbsentData, 12, kAbsentData},
        Case{"SS of another ring", kCode0, kData3, 10, kData3}}) {
    Guest g;
    g.protected_mode(0);
    fill_tss32(g, kTss2, c.code, c.data, kHandler);
    // The handler is a task of its own: the broken one may have no stack.
    fill_tss32(g, kTss, kCode0, kData0, kHandler + 0x100);
    g.set_idt(c.vector, gate(kTssSel, 0, 0x85));
    EXPECT_FALSE(jmp(g, kTss2Sel)) << c.what;
    EXPECT_EQ(g.s.tr.selector, kTssSel) << c.what;
    EXPECT_EQ(g.s.rip, kCode + 7) << c.what;  // where the first task had been left
    EXPECT_EQ(g.stack32(0), c.error) << c.what;
    EXPECT_EQ(g.peek<uint32_t>(kTss2 + 0x20), kHandler) << c.what;
  }
}

TEST(TaskSwitch, debug_trap_bit_sets_bt) {
  Guest g;
  g.protected_mode(0);
  fill_tss32(g, kTss2, kCode0, kData0, kHandler);
  g.poke<uint16_t>(kTss2 + 0x64, 1);
  EXPECT_FALSE(jmp(g, kTss2Sel));
  EXPECT_EQ(g.cpu.debug_traps, 1u << 15);
}

TEST(TaskSwitch, to_a_virtual_8086_task) {
  Guest g;
  g.protected_mode(0);
  fill_tss32(g, kTss2, 0x800, 0x3000, 0);
  g.poke<uint32_t>(kTss2 + 0x24, rflags::kVm | 2);
  EXPECT_FALSE(jmp(g, kTss2Sel));
  EXPECT_TRUE(g.s.v8086());
  EXPECT_EQ(g.cs().base, 0x8000u);
  EXPECT_EQ(g.s.cpl(), 3u);
}

TEST(TaskSwitch, iret_to_a_task_that_is_not_busy_is_ts) {
  Guest g;
  g.protected_mode(0);
  g.s.flags_rest |= rflags::kNt;
  g.poke<uint16_t>(kTss, kTss2Sel);
  expect_fault(g.execute(kIret), Vector::kTs, kTss2Sel);
}

// ---- I/O permission ----

bool allowed(Guest& g, uint16_t port, unsigned size) {
  try {
    check_io_permission(g.cpu, port, size);
    return true;
  } catch (const x86::Exception& exception) {
    EXPECT_EQ(exception.vector, Vector::kGp);
    EXPECT_EQ(exception.error, 0u);
    return false;
  }
}

class IoPermission : public testing::Test {
 protected:
  IoPermission() {
    g.protected_mode(3);
    g.s.tr.limit = 0x68 + 16;  // 128 ports and the byte that ends the map
    g.poke<uint16_t>(kTss + 0x66, 0x68);
    for (unsigned i = 0; i < 16; ++i) g.poke<uint8_t>(kTss + 0x68 + i, 0xff);
    g.poke<uint8_t>(kTss + 0x68 + 16, 0xff);
  }
  Guest g;
};

TEST_F(IoPermission, bitmap_decides_above_iopl) {
  EXPECT_FALSE(allowed(g, 0x20, 1));
  g.poke<uint8_t>(kTss + 0x68 + 4, 0xfe);
  EXPECT_TRUE(allowed(g, 0x20, 1));
  EXPECT_FALSE(allowed(g, 0x20, 2));
}

TEST_F(IoPermission, iopl_3_needs_no_bitmap) {
  g.s.flags_rest |= rflags::kIopl;
  EXPECT_TRUE(allowed(g, 0x20, 4));
}

TEST_F(IoPermission, virtual_8086_mode_always_asks_the_bitmap) {
  g.s.flags_rest |= rflags::kIopl | rflags::kVm;
  EXPECT_FALSE(allowed(g, 0x20, 1));
}

TEST_F(IoPermission, ports_across_a_byte_of_the_map) {
  g.poke<uint8_t>(kTss + 0x68 + 0, 0x7f);
  g.poke<uint8_t>(kTss + 0x68 + 1, 0xfe);
  EXPECT_TRUE(allowed(g, 7, 2));
  EXPECT_FALSE(allowed(g, 7, 4));
}

TEST_F(IoPermission, beyond_the_tss_limit_is_denied) {
  for (unsigned i = 0; i < 17; ++i) g.poke<uint8_t>(kTss + 0x68 + i, 0);
  EXPECT_TRUE(allowed(g, 127, 1));
  EXPECT_FALSE(allowed(g, 128, 1));
}

TEST_F(IoPermission, a_16_bit_tss_has_no_map) {
  g.s.tr.attributes = 0x83;
  EXPECT_FALSE(allowed(g, 0x20, 1));
}

}  // namespace
}  // namespace ostler::interp
