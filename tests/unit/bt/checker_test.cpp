// `check=1`: each block is run on both engines.
#include "rig.h"

namespace ostler::bt {
namespace {

// Processors differ in what these leave; some keep flags, for which the translation's own checks have had
// use.
TEST(Checker, FlagsThatTheManualLeavesUndefinedMayBeTheHosts) {
  Rig rig({.cache_bytes = size_t{4} << 20, .check = 1});
  rig.map();
  rig.start(0);
  x86::CpuState& s = rig.state();
  s.gpr[x86::kRbx] = 0x30000;
  s.gpr[x86::kRbp] = 50;
  // again: mov [rbx], edx; imul edx, eax; imul eax, [rbx]; call on, so that somebody may look at the flags
  // on: mov [rbx + 8], rax; rol eax, 5; jmp next
  rig.code_at(kText, {0x89, 0x13, 0x0f, 0xaf, 0xd0, 0x0f, 0xaf, 0x03, 0xe8, 0x00, 0x00, 0x00, 0x00,
                      0x48, 0x89, 0x43, 0x08, 0xc1, 0xc0, 0x05, 0xe9, 0xe7, 0x0f, 0x00, 0x00});
  // next: pop rax; or eax, 3; bsf ecx, eax; mov [rbx], ecx; dec ebp; jnz again; hlt
  rig.code_at(kText + 0x1000, {0x58, 0x83, 0xc8, 0x03, 0x0f, 0xbc, 0xc8, 0x89, 0x0b, 0xff, 0xcd, 0x0f, 0x85,
                               0xef, 0xef, 0xff, 0xff, 0xf4});
  EXPECT_EQ(rig.interpreter->run(10000), interp::Exit::kHalted);
  EXPECT_EQ(s.gpr[x86::kRbp], 0u);
}

}  // namespace
}  // namespace ostler::bt
