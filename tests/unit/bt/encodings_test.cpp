// Encodings that not all host processors take the same way: the guest's meaning must not depend on the host.
#include "rig.h"

namespace ostler::bt {
namespace {

// F3 41 90 is PAUSE (SDM 2B, PAUSE); AMD's processors would exchange R8 and RAX.
TEST(Encodings, PauseWithRexBIsNoExchange) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.start(0);
  rig.code_at(kText, {0xf3, 0x41, 0x90, 0xf4});  // pause; hlt
  rig.state().rip = kText;
  rig.state().gpr[x86::kRax] = 1;
  rig.state().gpr[8] = 2;
  ASSERT_EQ(rig.interpreter->run(1000), interp::Exit::kHalted);
  EXPECT_EQ(rig.state().gpr[x86::kRax], 1u);
  EXPECT_EQ(rig.state().gpr[8], 2u);
  EXPECT_EQ(rig.runner->statistics().interpreted, 1u) << "HLT";
}

}  // namespace
}  // namespace ostler::bt
