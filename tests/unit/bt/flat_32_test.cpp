// Which 32-bit code is translated, and that it is: what it does is the engine contract's and the streams'
// matter.
#include <functional>

#include "rig.h"

namespace ostler::bt {
namespace {

using x86::CpuState;
using x86::Segment;

struct Mode {
  const char* name;
  unsigned cpl;
  bool paging, long_mode;
};

class Flat32 : public ::testing::TestWithParam<Mode> {
 protected:
  // Runs 1000 rounds of a loop with CALL, PUSH, POP and a load: again: push eax; call f; pop ebx; add eax, 2;
  // dec ecx; jnz again; jmp there; f: mov edx, [esp]; ret
  void run(const std::function<void(CpuState&)>& change = {}) {
    rig.map();
    rig.start(GetParam().cpl);
    CpuState& s = rig.state();
    s.seg[x86::kCs].attributes = 0xc09b | GetParam().cpl << 5;
    if (!GetParam().long_mode) s.msr.efer = 0;
    if (GetParam().paging && !GetParam().long_mode) s.pdpte[0] = (kTables + 2 * kPageSize) | 1;
    if (!GetParam().paging) s.cr0 &= ~x86::cr0::kPg;
    if (change) change(s);
    const uint64_t stack = s.gpr[x86::kRsp];
    rig.interpreter->state_changed();
    rig.code_at(kText, {0x50, 0xe8, 0x09, 0, 0, 0, 0x5b, 0x83, 0xc0, 0x02, 0x49, 0x75, 0xf3, 0xeb, 0xfe, 0x8b,
                        0x14, 0x24, 0xc3});
    s.gpr[x86::kRax] = 0;
    s.gpr[x86::kRcx] = kRounds;
    rig.interpreter->run(10 * kRounds);
    EXPECT_EQ(s.gpr[x86::kRax], 2 * kRounds);
    EXPECT_EQ(s.gpr[x86::kRbx], 2 * kRounds - 2);
    EXPECT_EQ(s.gpr[x86::kRdx], kText + 6);
    EXPECT_EQ(s.gpr[x86::kRsp], stack);
  }
  static constexpr unsigned kRounds = 1000;
  Rig rig{{.cache_bytes = size_t{4} << 20, .count = true}};
};

TEST_P(Flat32, RunsInChainedTranslations) {
  run();
  const Runner::Statistics& s = rig.runner->statistics();
  EXPECT_GT(s.entries_32, 0u);
  EXPECT_LT(s.entries, 20u);
  EXPECT_EQ(s.interpreted, 0u);
}

TEST_P(Flat32, OtherSegmentsAreForTheInterpreter) {
  constexpr uint32_t kBig = Segment::kDefaultBig;
  const std::function<void(CpuState&)> changes[] = {
      [](CpuState& s) { s.seg[x86::kDs].limit = 0xffff'f000; },
      [](CpuState& s) { s.seg[x86::kEs].limit = 0xffff; },
      [](CpuState& s) { s.seg[x86::kSs].limit = 0x7fff'ffff; },
      [](CpuState& s) { s.seg[x86::kCs].limit = 0x7fff'ffff; },
      [](CpuState& s) { s.seg[x86::kEs].base = 16; },
      [](CpuState& s) { s.seg[x86::kDs].base = 16; },
      [](CpuState& s) { s.seg[x86::kDs].attributes &= ~2u; },  // read-only
      [](CpuState& s) { s.seg[x86::kDs].attributes |= 8; },    // code
      [](CpuState& s) { s.seg[x86::kEs].attributes |= 4; },    // expand-down: nothing is inside
      [](CpuState& s) { s.seg[x86::kEs].attributes &= ~Segment::kPresent; },
      [](CpuState& s) { s.seg[x86::kEs].attributes |= Segment::kUnusable; },
      [](CpuState& s) {
        s.seg[x86::kSs].attributes &= ~kBig;  // SP
        s.gpr[x86::kRsp] = 0x3800;
      },
  };
  for (size_t i = 0; i < std::size(changes); ++i) {
    run(changes[i]);
    EXPECT_EQ(rig.runner->statistics().entries_32, 0u) << i;
  }
}

TEST_P(Flat32, FsAndGsMayBeAnything) {
  run([](CpuState& s) {
    s.seg[x86::kFs] = {.base = 0, .limit = 0, .attributes = Segment::kUnusable, .selector = 0};
    s.seg[x86::kGs].base = 0x1234;
    s.seg[x86::kGs].limit = 0xffff;
  });
  EXPECT_GT(rig.runner->statistics().entries_32, 0u);
  EXPECT_EQ(rig.window->hot().limited[0], 1u);
  EXPECT_EQ(rig.window->hot().limited[1], 1u);
}

// 64-bit blocks at the same place are others.
TEST_P(Flat32, BlocksAreOfOneCodeSize) {
  run();
  rig.start(GetParam().cpl);
  CpuState& s = rig.state();
  s.gpr[x86::kRax] = 7;
  s.gpr[x86::kRcx] = 0x1'0000'0001;
  // push rax; call f; pop rbx; add eax, 2; then 49 is a prefix: jnz, rather than dec ecx
  rig.interpreter->run(8);
  EXPECT_EQ(s.gpr[x86::kRcx], 0x1'0000'0001u);
  EXPECT_EQ(s.gpr[x86::kRdx], kText + 6);
}

INSTANTIATE_TEST_SUITE_P(Modes, Flat32,
                         ::testing::Values(Mode{"without_paging", 0, false, false},
                                           Mode{"legacy", 0, true, false},
                                           Mode{"legacy_user", 3, true, false},
                                           Mode{"compatibility", 0, true, true},
                                           Mode{"compatibility_user", 3, true, true}),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(Flat32Window, HoldsTheStackPointerOfEveryAccess) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.start(0);
  // push eax; sub esp, 64; mov [esp + 72], eax; hlt
  rig.code_at(kText, {0x50, 0x83, 0xec, 0x40, 0x89, 0x44, 0x24, 0x48, 0xf4});
  GuestCode code;
  read_guest_code(*rig.mmu, rig.model, kText, kText, mode::kSupervisor | mode::kCpl0 | mode::k32, {}, code);
  ASSERT_GE(code.count, 3u);
  EXPECT_TRUE(code.insns[0].in_window && code.insns[2].in_window);
  EXPECT_EQ(code.insns[0].window_from, -68);
  EXPECT_EQ(code.insns[0].window_size, 68 + 8);
}

// What is compared with the window's page is in 32 bits, too: 64-bit code may have used a page 4 GiB further
// on. An access by the wrong distance would be a host fault at best.
TEST(Flat32Window, IsNotThePageOf64BitCodeBeyond4GiB) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  store_le<uint64_t>(rig.at(kTables + 3 * kPageSize), 0x50000 | 7);
  store_le<uint64_t>(rig.at(kTables + 1 * kPageSize) + 8 * 4, (kTables + 2 * kPageSize) | 7);
  rig.start(0);
  CpuState& s = rig.state();
  s.gpr[x86::kRbx] = uint64_t{1} << 32;
  rig.code_at(kText, {0x89, 0x03, 0xf4});  // mov [rbx], eax; hlt
  EXPECT_EQ(rig.interpreter->run(100), interp::Exit::kHalted);
  s.seg[x86::kCs].attributes = 0xc09b;
  rig.interpreter->cpu().mode_changed();
  // add esp, 0x100; push 7; hlt
  rig.code_at(kText + 16, {0x81, 0xc4, 0, 1, 0, 0, 0x6a, 7, 0xf4});
  s.gpr[x86::kRsp] = 0xffff'fff0;
  s.rip = kText + 16;
  s.activity = x86::Activity::kRunning;
  EXPECT_EQ(rig.interpreter->run(100), interp::Exit::kHalted);
  EXPECT_EQ(s.gpr[x86::kRsp], 0xecu);
  EXPECT_EQ(load_le<uint32_t>(rig.at(0x500ec)), 7u);
  EXPECT_EQ(rig.runner->statistics().host_faults, 0u);
}

// ESP is made 32 bits wide before it is compared: what 64-bit code leaves in the upper half is no distance.
TEST(Flat32Window, TheUpperHalfOfEspIsNoDistance) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  store_le<uint64_t>(rig.at(kTables + 1 * kPageSize) + 8 * 4, (kTables + 2 * kPageSize) | 7);
  rig.start(0);
  CpuState& s = rig.state();
  s.seg[x86::kCs].attributes = 0xc09b;
  rig.interpreter->cpu().mode_changed();
  // again: push ecx; pop eax; dec ecx; jnz again; hlt
  rig.code_at(kText, {0x51, 0x58, 0x49, 0x75, 0xfb, 0xf4});
  for (const uint64_t upper : {uint64_t{0}, uint64_t{1} << 32, uint64_t{0xffff'8000} << 32}) {
    s.gpr[x86::kRsp] = upper | kStackTop;
    s.gpr[x86::kRcx] = 20;
    s.rip = kText;
    s.activity = x86::Activity::kRunning;
    EXPECT_EQ(rig.interpreter->run(1000), interp::Exit::kHalted);
    EXPECT_EQ(static_cast<uint32_t>(s.gpr[x86::kRsp]), kStackTop);
    EXPECT_EQ(s.gpr[x86::kRax], 1u);
  }
  EXPECT_EQ(rig.runner->statistics().host_faults, 0u);
}

}  // namespace
}  // namespace ostler::bt
