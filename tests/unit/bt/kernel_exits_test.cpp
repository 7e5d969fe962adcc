// What Linux puts on its ways out against the processor's speculation stays in translated code: VERW, and
// calls that return to their caller's caller.
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

constexpr uint64_t kGdt = 0x30000, kSelector = 0x31000;

void descriptor(Rig& rig, unsigned index, uint64_t high) {
  store_le<uint64_t>(rig.at(kGdt) + 8 * index, high << 32);
}

// Executes VERW [kSelector] 1000 times with CF and OF set. ZF, and what the interpreter did.
struct Verw {
  bool zf = false, others = false;
  uint64_t interpreted = 0;
};
Verw verw(uint16_t selector, unsigned cpl = 0) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.start(cpl);
  descriptor(rig, 0, 0x00cf9300);  // null, whatever it says
  descriptor(rig, 1, 0x00cf9300);  // data, writable, DPL 0
  descriptor(rig, 2, 0x00cf9100);  // data, read-only
  descriptor(rig, 3, 0x00af9b00);  // code
  descriptor(rig, 4, 0x00008b00);  // TSS
  descriptor(rig, 5, 0x00cff300);  // data, writable, DPL 3
  descriptor(rig, 6, 0x00cf9300);  // beyond the limit
  x86::CpuState& s = rig.state();
  s.gdtr = {.base = kGdt, .limit = 6 * 8 + 6};
  s.gpr[x86::kRbx] = kSelector;
  s.gpr[x86::kRcx] = 1000;
  store_le<uint16_t>(rig.at(kSelector), selector);
  // again: mov al, 0x7f; add al, 1 (OF); stc; verw [rbx]; lahf; seto dl; loop again; hlt, or port 0x80
  rig.code_at(kText,
              {0xb0, 0x7f, 0x04, 0x01, 0xf9, 0x0f, 0x00, 0x2b, 0x9f, 0x0f, 0x90, 0xc2, 0xe2, 0xf2, 0xf4});
  rig.interpreter->run(20000);
  const uint8_t ah = static_cast<uint8_t>(s.gpr[x86::kRax] >> 8), dl = static_cast<uint8_t>(s.gpr[x86::kRdx]);
  return {(ah & 0x40) != 0, (ah & 1) != 0 && dl == 1, rig.runner->statistics().interpreted};
}

TEST(KernelExits, VerwOfAWritableSegmentIsTranslated) {
  const Verw done = verw(1 * 8);
  EXPECT_TRUE(done.zf);
  EXPECT_TRUE(done.others);
  EXPECT_LT(done.interpreted, 10u);
}

TEST(KernelExits, VerwOfAnyOtherIsWhatTheInterpreterSays) {
  struct Case {
    uint16_t selector;
    bool good;
  };
  // 0x9: RPL 1; 0xc: of the LDT, which is not there.
  for (const Case& c :
       {Case{0, false}, Case{0x10, false}, Case{0x18, false}, Case{0x20, false}, Case{0x28, true},
        Case{0x30, false}, Case{0x9, false}, Case{0x2b, true}, Case{0xc, false}}) {
    const Verw done = verw(c.selector);
    EXPECT_EQ(done.zf, c.good) << c.selector;
    EXPECT_TRUE(done.others) << c.selector;
  }
  EXPECT_FALSE(verw(1 * 8, 3).zf);
  EXPECT_TRUE(verw(5 * 8, 3).zf);
}

TEST(KernelExits, ReturnsThatDropTheirOwnAddressKeepTheShadowStackInStep) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.start(0);
  rig.state().gpr[x86::kRcx] = 100;
  // again: call f; loop again; hlt
  rig.code_at(kText, {0xe8, 0xfb, 0x0f, 0x00, 0x00, 0xe2, 0xf9, 0xf4});
  // f: call thunk; ud2
  rig.code_at(kText + 0x1000, {0xe8, 0xfb, 0x0f, 0x00, 0x00, 0x0f, 0x0b});
  // thunk: lea rsp, [rsp + 8]; ret
  rig.code_at(kText + 0x2000, {0x48, 0x8d, 0x64, 0x24, 0x08, 0xc3});
  EXPECT_EQ(rig.interpreter->run(10000), interp::Exit::kHalted);
  EXPECT_EQ(rig.state().gpr[x86::kRsp], kStackTop);
  // The first rounds find links and pages.
  EXPECT_LE(rig.window->hot().shadow_base[1] - rig.window->hot().shadow_rsp, 8 * 8u);
}

// What user code has made known to its own indirect jumps is not there for a supervisor's, to the same place:
// it is other code, and with SMEP there is none.
struct JumpedTo {
  interp::Exit exit;
  uint64_t times, cr2;
};
JumpedTo jump_at_both_privileges(bool smep) {
  constexpr uint64_t kTarget = kText + 0x2000, kStub = kText + 0x4000;
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  std::byte* entry = rig.at(kTables + 3 * kPageSize + kStub / kPageSize * 8);
  store_le<uint64_t>(entry, load_le<uint64_t>(entry) & ~uint64_t{4});  // the supervisor's
  rig.code_at(kText, {0xff, 0xe0});                                    // jmp rax
  // inc ebx; cmp ebx, 4; jae on; jmp rdx; on: syscall
  rig.code_at(kTarget, {0xff, 0xc3, 0x83, 0xfb, 0x04, 0x73, 0x02, 0xff, 0xe2, 0x0f, 0x05});
  rig.code_at(kStub, {0x49, 0xff, 0xc9, 0x78, 0x02, 0xff, 0xe0, 0xf4});  // dec r9; js on; jmp rax; on: hlt
  rig.start(3);
  x86::CpuState& s = rig.state();
  s.cr4 |= x86::cr4::kOsxsave | (smep ? x86::cr4::kSmep : 0);
  s.xcr0 = 7;
  s.msr.efer |= x86::efer::kSce;
  s.msr.star = uint64_t{8} << 32 | uint64_t{16 | 3} << 48;
  s.msr.lstar = kStub;
  s.gpr[x86::kRax] = kTarget;
  s.gpr[x86::kRbx] = 0;
  s.gpr[x86::kRdx] = kText;
  s.gpr[x86::kR9] = 1;
  rig.interpreter->state_changed();
  const interp::Exit exit = rig.interpreter->run(int64_t{1} << 40);
  return {exit, s.gpr[x86::kRbx], s.cr2};
}

TEST(KernelExits, AJumpToWhatTheUserJumpsTo) {
  const JumpedTo known = jump_at_both_privileges(false);
  EXPECT_EQ(known.exit, interp::Exit::kHalted);
  EXPECT_EQ(known.times, 5u);
  const JumpedTo refused = jump_at_both_privileges(true);
  EXPECT_EQ(refused.exit, interp::Exit::kShutdown);  // there is no IDT
  EXPECT_EQ(refused.times, 4u);
  EXPECT_EQ(refused.cr2, kText + 0x2000);
}

}  // namespace
}  // namespace ostler::bt
