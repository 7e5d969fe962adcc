// Exceptions and interrupts through the IVT and IDT, IRET, double and triple faults.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Exception;
using x86::Vector;
namespace rflags = x86::rflags;

constexpr uint8_t kInterruptGate = 0x8e, kTrapGate = 0x8f, kUserGate = 0xee, kTaskGateType = 0x85;
constexpr std::initializer_list<uint8_t> kInt40 = {0xcd, 0x40}, kIretd = {0xcf}, kIretq = {0x48, 0xcf};

Exception page_fault(uint64_t address, uint32_t error) {
  Exception exception{Vector::kPf, true, error};
  exception.cr2 = address;
  return exception;
}

TEST(Delivery, real_mode_pushes_flags_cs_ip_and_loads_the_vector) {
  Guest g;
  g.real_mode();
  g.poke<uint32_t>(0x40 * 4, 0x0900'0123);
  g.s.set_rflags(rflags::kIf | rflags::kTf | rflags::kCf | 2);
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.cs().selector, 0x900);
  EXPECT_EQ(g.cs().base, 0x9000u);
  EXPECT_EQ(g.s.rip, 0x123u);
  EXPECT_EQ(g.rsp(), 0x100u - 6);
  EXPECT_EQ(g.stack16(0), 2);  // after INT
  EXPECT_EQ(g.stack16(1), kCode >> 4);
  EXPECT_EQ(g.stack16(2), 0x303);
  EXPECT_FALSE(g.s.flag(rflags::kIf | rflags::kTf));
}

TEST(Delivery, real_mode_round_trip_through_iret) {
  Guest g;
  g.real_mode();
  g.poke<uint32_t>(0x40 * 4, (kHandler >> 4) << 16);
  g.s.set_rflags(rflags::kIf | rflags::kZf | 2);
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_FALSE(g.execute(kIretd));
  EXPECT_EQ(g.cs().base + g.s.rip, kCode + 2);
  EXPECT_EQ(g.rsp(), 0x100u);
  EXPECT_EQ(g.s.rflags(), rflags::kIf | rflags::kZf | 2);
}

TEST(Delivery, real_mode_vector_outside_the_ivt_is_gp) {
  Guest g;
  g.real_mode();
  g.s.idtr.limit = 0x40 * 4 + 2;
  expect_fault(g.execute(kInt40), Vector::kGp, 0x202);
}

TEST(Delivery, real_mode_stack_wraps_at_64k) {
  Guest g;
  g.real_mode();
  g.rsp() = 2;
  g.poke<uint32_t>(0x40 * 4, (kHandler >> 4) << 16);
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.rsp(), 0xfffcu);
  EXPECT_EQ(g.peek<uint16_t>(kStack3 + 0xfffe), kCode >> 4);
}

TEST(Delivery, interrupt_gate_clears_if_trap_gate_keeps_it) {
  for (const auto& [type, kept] : {std::pair{kInterruptGate, false}, {kTrapGate, true}}) {
    Guest g;
    g.protected_mode(0);
    g.s.set_rflags(rflags::kIf | rflags::kTf | rflags::kNt | 2);
    g.set_idt(0x40, gate(kCode0, kHandler, type));
    EXPECT_FALSE(g.execute(kInt40));
    EXPECT_EQ(g.s.rip, kHandler);
    EXPECT_EQ(g.s.flag(rflags::kIf), kept);
    EXPECT_FALSE(g.s.flag(rflags::kTf | rflags::kNt));
    EXPECT_EQ(g.stack32(0), kCode + 2);
    EXPECT_EQ(g.stack32(1), kCode0);
    EXPECT_EQ(g.stack32(2), rflags::kIf | rflags::kTf | rflags::kNt | 2);
  }
}

TEST(Delivery, privilege_change_takes_the_stack_from_the_tss) {
  Guest g;
  g.protected_mode(3);
  g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_EQ(g.cs().selector, kCode0);
  EXPECT_EQ(g.ss().selector, kData0);
  EXPECT_EQ(g.rsp(), kStack0 - 20);
  EXPECT_EQ(g.stack32(0), kCode + 2);
  EXPECT_EQ(g.stack32(1), kCode3 | 3);
  EXPECT_EQ(g.stack32(3), kStack3);
  EXPECT_EQ(g.stack32(4), kData3 | 3);
}

TEST(Delivery, return_to_the_outer_level_restores_its_stack_and_drops_inner_segments) {
  Guest g;
  g.protected_mode(3);
  g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
  EXPECT_FALSE(g.execute(kInt40));
  g.s.seg[x86::kDs] = g.ss();  // ring 0 data
  EXPECT_FALSE(g.execute(kIretd));
  EXPECT_EQ(g.s.cpl(), 3u);
  EXPECT_EQ(g.rsp(), kStack3);
  EXPECT_EQ(g.s.rip, kCode + 2);
  EXPECT_FALSE(g.s.seg[x86::kDs].usable());
  EXPECT_TRUE(g.s.seg[x86::kEs].usable());  // ring 3 data stays
}

TEST(Delivery, sixteen_bit_gate_pushes_words) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(0x40, gate(kCode0, 0xffff'9000, 0x86));
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.s.rip, 0x9000u);
  EXPECT_EQ(g.rsp(), kStack0 - 6);
}

struct GateFault {
  const char* what;
  uint64_t gate;
  Vector vector;
  uint32_t error;
};

TEST(Delivery, bad_gates_and_targets_fault_with_their_error_codes) {
  constexpr uint32_t kIdtError = 0x40 * 8 + 2;
  const GateFault faults[] = {
      {"not a gate", gate(kCode0, kHandler, 0x8c), Vector::kGp, kIdtError},
      {"a segment", gate(kCode0, kHandler, 0x9e), Vector::kGp, kIdtError},
      {"gate DPL below CPL", gate(kCode0, kHandler, kInterruptGate), Vector::kGp, kIdtError},
      {"absent gate", gate(kCode0, kHandler, 0x6e), Vector::kNp, kIdtError},
      {"null selector", gate(0, kHandler, kUserGate), Vector::kGp, 0},
      {"selector beyond the GDT", gate(kGdtEnd, kHandler, kUserGate), Vector::kGp, kGdtEnd},
      {"data segment", gate(kData0, kHandler, kUserGate), Vector::kGp, kData0},
      {"absent code segment", gate(kAbsentCode, kHandler, kUserGate), Vector::kNp, kAbsentCode},
      {"task gate to no TSS", gate(kData0, 0, 0xe5), Vector::kTs, kData0},
  };
  for (const GateFault& fault : faults) {
    Guest g;
    g.protected_mode(3);
    g.set_idt(0x40, fault.gate);
    expect_fault(g.execute(kInt40), fault.vector, fault.error, fault.what);
    EXPECT_EQ(g.rsp(), kStack3) << fault.what;
    EXPECT_EQ(g.s.cpl(), 3u) << fault.what;
  }
}

TEST(Delivery, vector_outside_the_idt_is_gp) {
  Guest g;
  g.protected_mode(0);
  g.s.idtr.limit = 0x40 * 8 + 6;
  expect_fault(g.execute(kInt40), Vector::kGp, 0x202);
}

TEST(Delivery, bad_inner_stacks_are_ts_or_ss) {
  struct Case {
    const char* what;
    uint16_t selector;
    uint32_t esp;
    Vector vector;
    uint32_t error;
  };
  for (const Case& c : {Case{"null SS", 0, kStack0, Vector::kTs, 0},
                        Case{"SS of another ring", kData3 | 3, kStack0, Vector::kTs, kData3},
                        Case{"read-only SS", kReadOnly, kStack0, Vector::kTs, kReadOnly},
                        Case{"absent SS", kAbsentData, kStack0, Vector::kSs, kAbsentData},
                        Case{"SS beyond the GDT", kGdtEnd, kStack0, Vector::kTs, kGdtEnd},
                        Case{"no room", kSmallData, 16, Vector::kSs, kSmallData}}) {
    Guest g;
    g.protected_mode(3);
    g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
    g.poke<uint16_t>(kTss + 8, c.selector);
    g.poke<uint32_t>(kTss + 4, c.esp);
    expect_fault(g.execute(kInt40), c.vector, c.error, c.what);
  }
}

TEST(Delivery, tss_too_small_for_the_inner_stack_is_ts) {
  Guest g;
  g.protected_mode(3);
  g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
  g.s.tr.limit = 8;
  expect_fault(g.execute(kInt40), Vector::kTs, kTssSel);
}

TEST(Delivery, hardware_exception_ignores_the_gates_dpl_and_pushes_its_error) {
  Guest g;
  g.protected_mode(3);
  g.set_idt(13, gate(kCode0, kHandler, kInterruptGate));
  EXPECT_EQ(deliver_exception(g.cpu, {Vector::kGp, true, 0x1234}), Delivered::kOk);
  EXPECT_EQ(g.rsp(), kStack0 - 24);
  EXPECT_EQ(g.stack32(0), 0x1234u);
  EXPECT_EQ(g.stack32(1), kCode);
}

TEST(Delivery, faults_push_rf_and_traps_do_not) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(6, gate(kCode0, kHandler, kInterruptGate));
  g.set_idt(1, gate(kCode0, kHandler, kInterruptGate));
  deliver_exception(g.cpu, {Vector::kUd});
  EXPECT_TRUE(g.stack32(2) & rflags::kRf);
  EXPECT_FALSE(g.s.flag(rflags::kRf));
  Exception trap{Vector::kDb};
  trap.dr6_bits = 1u << 14;
  deliver_exception(g.cpu, trap);
  EXPECT_FALSE(g.stack32(2) & rflags::kRf);
}

TEST(Delivery, debug_exception_sets_dr6_and_clears_general_detect) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(1, gate(kCode0, kHandler, kInterruptGate));
  g.s.dr[7] = 1u << 13 | 0x400;
  Exception trap{Vector::kDb};
  trap.dr6_bits = 1u << 14 | 2;
  deliver_exception(g.cpu, trap);
  EXPECT_EQ(g.s.dr[6], 0xffff4ff2u);
  EXPECT_EQ(g.s.dr[7], 0x400u);
}

TEST(Delivery, page_fault_loads_cr2) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(14, gate(kCode0, kHandler, kInterruptGate));
  deliver_exception(g.cpu, page_fault(0xdeadb000, 2));
  EXPECT_EQ(g.s.cr2, 0xdeadb000u);
  EXPECT_EQ(g.stack32(0), 2u);
}

TEST(Delivery, contributory_fault_while_delivering_one_is_a_double_fault) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(8, gate(kCode0, kHandler, kInterruptGate));
  EXPECT_EQ(deliver_exception(g.cpu, {Vector::kGp, true, 0}), Delivered::kOk);  // no gate for #GP
  EXPECT_EQ(g.s.rip, kHandler);
  EXPECT_EQ(g.stack32(0), 0u);
  EXPECT_EQ(g.stack32(1), kCode);
}

TEST(Delivery, benign_exception_with_a_bad_gate_becomes_gp_with_ext) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(13, gate(kCode0, kHandler, kInterruptGate));
  deliver_exception(g.cpu, {Vector::kUd});
  EXPECT_EQ(g.stack32(0), 6u * 8 + 2 + 1);
}

TEST(Delivery, external_interrupt_with_a_bad_gate_becomes_gp_with_ext) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(13, gate(kCode0, kHandler, kInterruptGate));
  deliver_interrupt(g.cpu, 0x50);
  EXPECT_EQ(g.stack32(0), 0x50u * 8 + 2 + 1);
}

TEST(Delivery, fault_while_delivering_a_double_fault_is_shutdown) {
  Guest g;
  g.protected_mode(0);
  EXPECT_EQ(deliver_exception(g.cpu, {Vector::kGp, true, 0}), Delivered::kShutdown);
  EXPECT_EQ(g.s.activity, x86::Activity::kShutdown);
}

TEST(Delivery, page_fault_while_delivering_gp_is_delivered_in_its_place) {
  Guest g;
  g.long_mode(0);
  g.set_idt64(13, kCode64, kHandler, kInterruptGate, 1);
  g.set_idt64(14, kCode64, kHandler + 0x100, kInterruptGate);
  g.poke<uint64_t>(kTss + 0x24, 0x50000000);  // an IST stack that is not mapped
  deliver_exception(g.cpu, {Vector::kGp, true, 0x11});
  EXPECT_EQ(g.s.rip, kHandler + 0x100);
  EXPECT_EQ(g.s.cr2, 0x50000000u - 48);
  EXPECT_EQ(g.stack64(0), 2u);  // write, supervisor, not present
  EXPECT_EQ(g.stack64(1), kCode);
}

TEST(Delivery, page_fault_while_delivering_a_page_fault_is_a_double_fault) {
  Guest g;
  g.long_mode(0);
  g.set_idt64(14, kCode64, kHandler, kInterruptGate, 1);
  g.set_idt64(8, kCode64, kHandler + 0x200, kInterruptGate);
  g.poke<uint64_t>(kTss + 0x24, 0x50000000);
  deliver_exception(g.cpu, page_fault(0x60000000, 0));
  EXPECT_EQ(g.s.rip, kHandler + 0x200);
  EXPECT_EQ(g.stack64(0), 0u);
}

TEST(Delivery, nmi_blocks_nmis_until_iret) {
  Guest g;
  g.long_mode(0);
  g.set_idt64(2, kCode64, kHandler, kInterruptGate);
  deliver_nmi(g.cpu);
  EXPECT_TRUE(g.s.nmi_blocked);
  EXPECT_FALSE(g.execute(kIretq));
  EXPECT_FALSE(g.s.nmi_blocked);
}

// ---- 64-bit ----

TEST(Delivery64, always_pushes_ss_rsp_and_aligns_the_stack) {
  Guest g;
  g.long_mode(0);
  g.rsp() = kStack0 - 3;
  g.set_idt64(0x40, kCode64, kHandler, kInterruptGate);
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.rsp(), ((kStack0 - 3) & ~15u) - 40);
  EXPECT_EQ(g.stack64(0), kCode + 2);
  EXPECT_EQ(g.stack64(1), kCode64);
  EXPECT_EQ(g.stack64(3), kStack0 - 3);
  EXPECT_EQ(g.stack64(4), kData0);
}

TEST(Delivery64, ring_change_makes_ss_null_and_iretq_brings_it_back) {
  Guest g;
  g.long_mode(3);
  g.set_idt64(0x40, kCode64, kHandler, kUserGate);
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_EQ(g.ss().selector, 0);
  EXPECT_EQ(g.rsp(), kStack0 - 40);
  EXPECT_FALSE(g.execute(kIretq));
  EXPECT_EQ(g.s.cpl(), 3u);
  EXPECT_EQ(g.ss().selector, kData3 | 3);
  EXPECT_EQ(g.rsp(), kStack3);
  EXPECT_EQ(g.s.rip, kCode + 2);
}

TEST(Delivery64, ist_is_used_even_without_ring_change) {
  Guest g;
  g.long_mode(0);
  g.set_idt64(0x40, kCode64, kHandler, kInterruptGate, 1);
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.rsp(), kIst1 - 40);
  EXPECT_EQ(g.stack64(3), kStack0);
}

TEST(Delivery64, bad_gates) {
  struct Case {
    const char* what;
    uint16_t selector;
    uint64_t offset;
    uint8_t access;
    Vector vector;
    uint32_t error;
  };
  for (const Case& c : {Case{"task gate", kTss2Sel, 0, kTaskGateType | 0x60, Vector::kGp, 0x202},
                        Case{"16-bit gate", kCode64, kHandler, 0xe6, Vector::kGp, 0x202},
                        Case{"32-bit code", kCode0, kHandler, kUserGate, Vector::kGp, kCode0},
                        Case{"absent", kCode64, kHandler, 0x6e, Vector::kNp, 0x202},
                        Case{"not canonical", kCode64, uint64_t{1} << 60, kUserGate, Vector::kGp, 0},
                        Case{"DPL 0 from ring 3", kCode64, kHandler, kInterruptGate, Vector::kGp, 0x202}}) {
    Guest g;
    g.long_mode(3);
    g.set_idt64(0x40, c.selector, c.offset, c.access);
    expect_fault(g.execute(kInt40), c.vector, c.error, c.what);
  }
}

TEST(Delivery64, inner_stack_not_canonical_is_ss) {
  Guest g;
  g.long_mode(3);
  g.set_idt64(0x40, kCode64, kHandler, kUserGate);
  g.poke<uint64_t>(kTss + 4, uint64_t{1} << 60);
  expect_fault(g.execute(kInt40), Vector::kSs, 0);
}

// Pushes an IRETQ frame by hand.
void frame64(Guest& g, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss) {
  g.rsp() = kStack0 - 40;
  const uint64_t values[] = {rip, cs, flags, rsp, ss};
  for (unsigned i = 0; i < 5; ++i) g.poke<uint64_t>(g.rsp() + 8 * i, values[i]);
}

TEST(Iret64, to_ring_0_accepts_a_null_ss) {
  Guest g;
  g.long_mode(0);
  frame64(g, kHandler, kCode64, 2, kStack1, 0);
  EXPECT_FALSE(g.execute(kIretq));
  EXPECT_EQ(g.rsp(), kStack1);
  EXPECT_EQ(g.s.cpl(), 0u);
}

TEST(Iret64, to_compatibility_mode) {
  Guest g;
  g.long_mode(0);
  frame64(g, kHandler, kCode3 | 3, rflags::kIf | 2, kStack3, kData3 | 3);
  EXPECT_FALSE(g.execute(kIretq));
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k32);
  EXPECT_EQ(g.s.cpl(), 3u);
  EXPECT_TRUE(g.s.flag(rflags::kIf));
}

TEST(Iret64, faults) {
  struct Case {
    const char* what;
    uint64_t rip, cs, ss;
    uint32_t error;
  };
  for (const Case& c :
       {Case{"null CS", kHandler, 0, kData0, 0}, Case{"data in CS", kHandler, kData0, kData0, kData0},
        Case{"RIP not canonical", uint64_t{1} << 50, kCode64, kData0, 0},
        Case{"null SS for ring 3", kHandler, kCode64User | 3, 3, 0},
        Case{"SS of ring 0 for ring 3", kHandler, kCode64User | 3, kData0, kData0},
        Case{"null SS for 32-bit code", kHandler, kCode0, 0, 0}}) {
    Guest g;
    g.long_mode(0);
    frame64(g, c.rip, c.cs, 2, kStack0, c.ss);
    expect_fault(g.execute(kIretq), Vector::kGp, c.error, c.what);
  }
}

TEST(Iret64, nt_is_gp_in_long_mode) {
  Guest g;
  g.long_mode(0);
  g.s.flags_rest |= rflags::kNt;
  frame64(g, kHandler, kCode64, 2, kStack0, kData0);
  expect_fault(g.execute(kIretq), Vector::kGp, 0);
}

TEST(Iret, ring_3_changes_neither_iopl_nor_if) {
  Guest g;
  g.protected_mode(3);
  g.rsp() = kStack3 - 12;
  g.poke<uint32_t>(g.rsp(), kHandler);
  g.poke<uint32_t>(g.rsp() + 4, kCode3 | 3);
  g.poke<uint32_t>(g.rsp() + 8, rflags::kIopl | rflags::kIf | rflags::kVm | rflags::kCf | 2);
  EXPECT_FALSE(g.execute(kIretd));
  EXPECT_EQ(g.s.rflags(), rflags::kCf | 2);
}

// ---- virtual-8086 ----

TEST(V8086, interrupt_pushes_nine_words_and_nulls_the_data_segments) {
  Guest g;
  g.v8086_mode(3);
  g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_FALSE(g.s.v8086());
  EXPECT_EQ(g.rsp(), kStack0 - 36);
  EXPECT_EQ(g.stack32(0), 2u);
  EXPECT_EQ(g.stack32(1), kCode >> 4);
  EXPECT_TRUE(g.stack32(2) & rflags::kVm);
  EXPECT_EQ(g.stack32(3), 0x100u);
  EXPECT_EQ(g.stack32(4), kStack3 >> 4);
  for (unsigned i = 5; i < 9; ++i) EXPECT_EQ(g.stack32(i), 0x1000u);
  EXPECT_FALSE(g.s.seg[x86::kDs].usable());
}

TEST(V8086, iretd_enters_it_again) {
  Guest g;
  g.v8086_mode(3);
  g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
  EXPECT_FALSE(g.execute(kInt40));
  EXPECT_FALSE(g.execute(kIretd));
  EXPECT_TRUE(g.s.v8086());
  EXPECT_EQ(g.cs().base + g.s.rip, kCode + 2);
  EXPECT_EQ(g.ss().base + g.rsp(), kStack3 + 0x100);
  EXPECT_EQ(g.s.seg[x86::kGs].base, 0x10000u);
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k16);
}

TEST(V8086, int_n_and_iret_below_iopl_3_are_gp) {
  Guest g;
  g.v8086_mode(0);
  g.set_idt(0x40, gate(kCode0, kHandler, kUserGate));
  expect_fault(g.execute(kInt40), Vector::kGp, 0);
  expect_fault(g.execute(kIretd), Vector::kGp, 0);
}

TEST(V8086, int3_does_not_ask_for_iopl) {
  Guest g;
  g.v8086_mode(0);
  g.set_idt(3, gate(kCode0, kHandler, kUserGate));
  EXPECT_FALSE(g.execute({0xcc}));
  EXPECT_EQ(g.s.cpl(), 0u);
}

TEST(V8086, handler_must_be_in_ring_0) {
  Guest g;
  g.v8086_mode(3);
  g.set_idt(0x40, gate(kCode1, kHandler, kUserGate));
  expect_fault(g.execute(kInt40), Vector::kGp, kCode1);
  g.set_idt(0x40, gate(kCode3, kHandler, kUserGate));
  expect_fault(g.execute(kInt40), Vector::kGp, kCode3);
}

TEST(SoftwareInterrupt, into_only_with_overflow) {
  Guest g;
  g.protected_mode(0);
  g.set_idt(4, gate(kCode0, kHandler, kTrapGate));
  EXPECT_FALSE(g.execute({0xce}));
  EXPECT_EQ(g.s.rip, kCode + 1);
  g.s.set_rflags(rflags::kOf | 2);
  EXPECT_FALSE(g.execute({0xce}));
  EXPECT_EQ(g.s.rip, kHandler);
}

TEST(SoftwareInterrupt, int1_ignores_the_gates_dpl) {
  Guest g;
  g.protected_mode(3);
  g.set_idt(1, gate(kCode0, kHandler, kInterruptGate));
  EXPECT_FALSE(g.execute({0xf1}));
  EXPECT_EQ(g.s.rip, kHandler);
}

}  // namespace
}  // namespace ostler::interp
