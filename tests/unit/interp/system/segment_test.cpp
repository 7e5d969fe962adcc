// Loading segment registers, descriptor table registers, and questions about selectors.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Segment;
using x86::Vector;
namespace rflags = x86::rflags;

std::optional<x86::Exception> mov_ds(Guest& g, uint16_t selector) {
  g.s.gpr[x86::kRax] = selector;
  return g.execute({0x8e, 0xd8});
}
std::optional<x86::Exception> mov_ss(Guest& g, uint16_t selector) {
  g.s.gpr[x86::kRax] = selector;
  return g.execute({0x8e, 0xd0});
}

struct LoadCase {
  const char* what;
  unsigned cpl;
  uint16_t selector;
  Vector vector;
  uint32_t error;
};

TEST(LoadSegment, real_mode_changes_base_only) {
  Guest g;
  g.real_mode();
  g.s.seg[x86::kDs].limit = 0xffffffff;
  EXPECT_FALSE(mov_ds(g, 0x1234));
  EXPECT_EQ(g.s.seg[x86::kDs].base, 0x12340u);
  EXPECT_EQ(g.s.seg[x86::kDs].limit, 0xffffffffu);
}

TEST(LoadSegment, data_sets_accessed) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(mov_ds(g, kSmallData));
  EXPECT_EQ(g.s.seg[x86::kDs].base, 0x40000u);
  EXPECT_EQ(g.s.seg[x86::kDs].limit, 0xffu);
  EXPECT_EQ(g.peek<uint8_t>(kGdt + kSmallData + 5), 0x93);
  EXPECT_EQ(g.s.seg[x86::kDs].type(), 3u);
}

TEST(LoadSegment, null_makes_ds_unusable) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(mov_ds(g, 3));
  EXPECT_FALSE(g.s.seg[x86::kDs].usable());
  EXPECT_EQ(g.s.seg[x86::kDs].selector, 3);
}

TEST(LoadSegment, ds_faults) {
  for (const LoadCase& c : {LoadCase{"inner data", 3, kData0, Vector::kGp, kData0},
                            LoadCase{"RPL above DPL", 0, kData0 | 3, Vector::kGp, kData0},
                            LoadCase{"execute-only", 0, kExecOnly, Vector::kGp, kExecOnly},
                            LoadCase{"system", 0, kTssSel, Vector::kGp, kTssSel},
                            LoadCase{"absent", 0, kAbsentData, Vector::kNp, kAbsentData},
                            LoadCase{"beyond the GDT", 0, kGdtEnd, Vector::kGp, kGdtEnd},
                            LoadCase{"no LDT", 0, 0xc, Vector::kGp, 0xc}}) {
    Guest g;
    g.protected_mode(c.cpl);
    const Segment before = g.s.seg[x86::kDs];
    expect_fault(mov_ds(g, c.selector), c.vector, c.error, c.what);
    EXPECT_EQ(g.s.seg[x86::kDs].selector, before.selector) << c.what;
  }
}

TEST(LoadSegment, conforming_code_is_readable_from_any_ring) {
  Guest g;
  g.protected_mode(3);
  EXPECT_FALSE(mov_ds(g, kConforming | 3));
}

TEST(LoadSegment, ss_faults) {
  for (const LoadCase& c : {LoadCase{"null", 0, 0, Vector::kGp, 0},
                            LoadCase{"RPL other than CPL", 0, kData0 | 3, Vector::kGp, kData0},
                            LoadCase{"DPL other than CPL", 0, kData3, Vector::kGp, kData3},
                            LoadCase{"read-only", 0, kReadOnly, Vector::kGp, kReadOnly},
                            LoadCase{"code", 0, kCode0, Vector::kGp, kCode0},
                            LoadCase{"absent", 0, kAbsentData, Vector::kSs, kAbsentData}}) {
    Guest g;
    g.protected_mode(c.cpl);
    expect_fault(mov_ss(g, c.selector), c.vector, c.error, c.what);
  }
}

TEST(LoadSegment, ss_holds_interrupts_off_for_one_instruction) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(mov_ss(g, kData0));
  EXPECT_TRUE(g.s.interrupt_shadow);
}

TEST(LoadSegment, null_ss_in_64_bit_mode) {
  Guest g;
  g.long_mode(0);
  EXPECT_FALSE(mov_ss(g, 0));
  EXPECT_EQ(g.s.cpl(), 0u);
  Guest user;
  user.long_mode(3);
  expect_fault(mov_ss(user, 3), Vector::kGp, 0);
}

TEST(LoadSegment, pop_commits_rsp_only_on_success) {
  Guest g;
  g.protected_mode(0);
  g.rsp() -= 4;
  g.poke<uint32_t>(g.rsp(), kExecOnly);
  expect_fault(g.execute({0x1f}), Vector::kGp, kExecOnly);
  EXPECT_EQ(g.rsp(), kStack0 - 4);
  g.poke<uint32_t>(g.rsp(), 0xffff0000 | kData0);
  EXPECT_FALSE(g.execute({0x1f}));
  EXPECT_EQ(g.rsp(), kStack0);
  EXPECT_EQ(g.s.seg[x86::kDs].selector, kData0);
}

TEST(LoadSegment, lds_loads_both_or_nothing) {
  Guest g;
  g.protected_mode(0);
  g.poke<uint32_t>(0x7000, 0x89abcdef);
  g.poke<uint16_t>(0x7004, kExecOnly);
  g.s.gpr[x86::kRcx] = 0x11;
  g.s.gpr[x86::kRbx] = 0x7000;
  expect_fault(g.execute({0xc5, 0x0b}), Vector::kGp, kExecOnly);
  EXPECT_EQ(g.s.gpr[x86::kRcx], 0x11u);
  g.poke<uint16_t>(0x7004, kSmallData);
  EXPECT_FALSE(g.execute({0xc5, 0x0b}));
  EXPECT_EQ(g.s.gpr[x86::kRcx], 0x89abcdefu);
  EXPECT_EQ(g.s.seg[x86::kDs].selector, kSmallData);
}

TEST(StoreSegment, register_form_zero_extends) {
  Guest g;
  g.protected_mode(0);
  g.s.gpr[x86::kRax] = ~uint64_t{0};
  EXPECT_FALSE(g.execute({0x8c, 0xd8}));
  EXPECT_EQ(g.s.gpr[x86::kRax], kData0);
}

TEST(TableRegisters, lgdt_and_sgdt_in_64_bit_mode) {
  Guest g;
  g.long_mode(0);
  g.poke<uint16_t>(0x7000, 0x123);
  g.poke<uint64_t>(0x7002, 0xffff888000001000);
  g.s.gpr[x86::kRax] = 0x7000;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0x10}));
  EXPECT_EQ(g.s.gdtr.base, 0xffff888000001000u);
  EXPECT_EQ(g.s.gdtr.limit, 0x123);
  g.s.gpr[x86::kRax] = 0x7100;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0x00}));
  EXPECT_EQ(g.peek<uint16_t>(0x7100), 0x123);
  EXPECT_EQ(g.peek<uint64_t>(0x7102), 0xffff888000001000u);
}

TEST(TableRegisters, lidt_with_16_bit_operands_loads_24_bits) {
  Guest g;
  g.protected_mode(0);
  g.poke<uint16_t>(0x7000, 0x3ff);
  g.poke<uint32_t>(0x7002, 0xff123456);
  g.s.gpr[x86::kRax] = 0x7000;
  EXPECT_FALSE(g.execute({0x66, 0x0f, 0x01, 0x18}));
  EXPECT_EQ(g.s.idtr.base, 0x123456u);
}

TEST(TableRegisters, loads_need_ring_0) {
  Guest g;
  g.protected_mode(3);
  g.s.gpr[x86::kRax] = 0x7000;
  expect_fault(g.execute({0x0f, 0x01, 0x10}), Vector::kGp, 0);
  expect_fault(g.execute({0x0f, 0x01, 0x18}), Vector::kGp, 0);
  expect_fault(g.execute({0x0f, 0x00, 0xd0}), Vector::kGp, 0);
  expect_fault(g.execute({0x0f, 0x00, 0xd8}), Vector::kGp, 0);
}

TEST(TableRegisters, umip_hides_them_from_user_code) {
  Guest g;
  g.protected_mode(3);
  g.s.gpr[x86::kRax] = 0x7000;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0x00}));
  g.s.cr4 |= x86::cr4::kUmip;
  for (const uint8_t modrm : {uint8_t{0x00}, uint8_t{0x08}})
    expect_fault(g.execute({0x0f, 0x01, modrm}), Vector::kGp, 0, "SGDT, SIDT");
  for (const uint8_t modrm : {uint8_t{0xc0}, uint8_t{0xc8}})
    expect_fault(g.execute({0x0f, 0x00, modrm}), Vector::kGp, 0, "SLDT, STR");
  expect_fault(g.execute({0x0f, 0x01, 0xe0}), Vector::kGp, 0, "SMSW");
}

TEST(TableRegisters, ltr_marks_the_descriptor_busy) {
  Guest g;
  g.protected_mode(0);
  g.s.gpr[x86::kRax] = kTss2Sel;
  EXPECT_FALSE(g.execute({0x0f, 0x00, 0xd8}));
  EXPECT_EQ(g.s.tr.base, kTss2);
  EXPECT_EQ(g.peek<uint8_t>(kGdt + kTss2Sel + 5), 0x8b);
  expect_fault(g.execute({0x0f, 0x00, 0xd8}), Vector::kGp, kTss2Sel, "busy now");
}

TEST(TableRegisters, ltr_of_16_bytes_in_long_mode) {
  Guest g;
  g.long_mode(0);
  g.poke<uint64_t>(kGdt + kTss64Sel + 8, 0xffff8880);
  g.s.gpr[x86::kRax] = kTss64Sel;
  EXPECT_FALSE(g.execute({0x0f, 0x00, 0xd8}));
  EXPECT_EQ(g.s.tr.base, 0xffff888000000000 | kTss);
}

TEST(TableRegisters, upper_half_must_have_type_0) {
  Guest g;
  g.long_mode(0);
  g.poke<uint64_t>(kGdt + kTss64Sel + 8, uint64_t{1} << 40);
  g.s.gpr[x86::kRax] = kTss64Sel;
  expect_fault(g.execute({0x0f, 0x00, 0xd8}), Vector::kGp, kTss64Sel);
}

TEST(TableRegisters, lldt_takes_null_and_refuses_others) {
  Guest g;
  g.protected_mode(0);
  g.s.gpr[x86::kRax] = kLdtSel;
  EXPECT_FALSE(g.execute({0x0f, 0x00, 0xd0}));
  EXPECT_EQ(g.s.ldtr.base, kLdt);
  g.s.gpr[x86::kRax] = 0;
  EXPECT_FALSE(g.execute({0x0f, 0x00, 0xd0}));
  EXPECT_FALSE(g.s.ldtr.usable());
  g.s.gpr[x86::kRax] = kData0;
  expect_fault(g.execute({0x0f, 0x00, 0xd0}), Vector::kGp, kData0);
}

TEST(TableRegisters, sldt_str_lar_are_undefined_in_real_mode) {
  Guest g;
  g.real_mode();
  expect_fault(g.execute({0x0f, 0x00, 0xc0}), Vector::kUd, std::nullopt);
  expect_fault(g.execute({0x0f, 0x02, 0xc1}), Vector::kUd, std::nullopt);
}

bool zf(const Guest& g) {
  return (g.s.rflags() & rflags::kZf) != 0;
}

TEST(Questions, lar_answers_with_attributes_or_clears_zf) {
  Guest g;
  g.protected_mode(0);
  g.s.gpr[x86::kRcx] = kCode0;
  EXPECT_FALSE(g.execute({0x0f, 0x02, 0xc1}));
  EXPECT_TRUE(zf(g));
  EXPECT_EQ(g.s.gpr[x86::kRax], 0x00c09a00u);
  g.s.gpr[x86::kRcx] = kGdtEnd;
  g.s.gpr[x86::kRax] = 0x55;
  EXPECT_FALSE(g.execute({0x0f, 0x02, 0xc1}));
  EXPECT_FALSE(zf(g));
  EXPECT_EQ(g.s.gpr[x86::kRax], 0x55u);
}

TEST(Questions, lsl_gives_the_limit_in_bytes) {
  Guest g;
  g.protected_mode(3);
  g.s.gpr[x86::kRcx] = kData3 | 3;
  EXPECT_FALSE(g.execute({0x0f, 0x03, 0xc1}));
  EXPECT_TRUE(zf(g));
  EXPECT_EQ(g.s.gpr[x86::kRax], 0xffffffffu);
  g.s.gpr[x86::kRcx] = kData0;
  EXPECT_FALSE(g.execute({0x0f, 0x03, 0xc1}));
  EXPECT_FALSE(zf(g));
}

TEST(Questions, verr_and_verw) {
  struct Case {
    uint16_t selector;
    bool read, write;
  };
  for (const Case& c : {Case{kData0, true, true}, Case{kReadOnly, true, false}, Case{kExecOnly, false, false},
                        Case{kCode0, true, false}, Case{kTssSel, false, false}, Case{0, false, false}}) {
    Guest g;
    g.protected_mode(0);
    g.s.gpr[x86::kRax] = c.selector;
    EXPECT_FALSE(g.execute({0x0f, 0x00, 0xe0}));
    EXPECT_EQ(zf(g), c.read) << c.selector;
    EXPECT_FALSE(g.execute({0x0f, 0x00, 0xe8}));
    EXPECT_EQ(zf(g), c.write) << c.selector;
  }
}

TEST(Questions, arpl_raises_rpl) {
  Guest g;
  g.protected_mode(0);
  g.s.gpr[x86::kRax] = 0x10;
  g.s.gpr[x86::kRcx] = 3;
  EXPECT_FALSE(g.execute({0x63, 0xc8}));
  EXPECT_EQ(g.s.gpr[x86::kRax], 0x13u);
  EXPECT_TRUE(zf(g));
  EXPECT_FALSE(g.execute({0x63, 0xc8}));
  EXPECT_FALSE(zf(g));
}

TEST(Bases, swapgs_exchanges_in_ring_0_only) {
  Guest g;
  g.long_mode(0);
  g.s.seg[x86::kGs].base = 1;
  g.s.msr.kernel_gs_base = 2;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xf8}));
  EXPECT_EQ(g.s.seg[x86::kGs].base, 2u);
  EXPECT_EQ(g.s.msr.kernel_gs_base, 1u);
  Guest user;
  user.long_mode(3);
  expect_fault(user.execute({0x0f, 0x01, 0xf8}), Vector::kGp, 0);
}

TEST(Bases, wrfsbase_needs_cr4_and_a_canonical_value) {
  Guest g;
  g.long_mode(3);
  g.s.gpr[x86::kRax] = 0x7fff12345678;
  expect_fault(g.execute({0xf3, 0x48, 0x0f, 0xae, 0xd0}), Vector::kUd, std::nullopt);
  g.s.cr4 |= x86::cr4::kFsgsbase;
  EXPECT_FALSE(g.execute({0xf3, 0x48, 0x0f, 0xae, 0xd0}));
  EXPECT_EQ(g.s.seg[x86::kFs].base, 0x7fff12345678u);
  EXPECT_FALSE(g.execute({0xf3, 0x48, 0x0f, 0xae, 0xc1}));  // rdfsbase rcx
  EXPECT_EQ(g.s.gpr[x86::kRcx], 0x7fff12345678u);
  g.s.gpr[x86::kRax] = uint64_t{1} << 50;
  expect_fault(g.execute({0xf3, 0x48, 0x0f, 0xae, 0xd0}), Vector::kGp, 0);
}

}  // namespace
}  // namespace ostler::interp
