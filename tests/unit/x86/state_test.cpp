#include <gtest/gtest.h>

#include "state/archive.h"
#include "x86/state.h"

namespace ostler::x86 {
namespace {

TEST(CpuState, reset_starts_at_the_top_of_the_first_4_gib) {
  CpuState s;
  s.reset(false);
  EXPECT_EQ(s.seg[kCs].base + s.rip, 0xfffffff0u);
  EXPECT_EQ(s.cr0, 0x60000010u);
  EXPECT_EQ(s.rflags(), 2u);
  EXPECT_EQ(s.dr[6], 0xffff0ff0u);
  EXPECT_EQ(s.fx.fcw, 0x40u);
}

TEST(CpuState, init_keeps_fpu_vectors_and_most_msrs) {
  CpuState s;
  s.reset(false);
  s.fx.mxcsr = 0x1f00;
  s.vec[3][5] = 7;
  s.msr.lstar = 0x1234;
  s.msr.efer = efer::kSce;
  s.cr0 = cr0::kPe | cr0::kCd;
  s.reset(true);
  EXPECT_EQ(s.fx.mxcsr, 0x1f00u);
  EXPECT_EQ(s.vec[3][5], 7);
  EXPECT_EQ(s.msr.lstar, 0x1234u);
  EXPECT_EQ(s.msr.efer, 0u);
  EXPECT_EQ(s.cr0, cr0::kCd | cr0::kEt);
}

TEST(CpuState, survives_save_and_restore) {
  CpuState s;
  s.reset(false);
  for (unsigned i = 0; i < kZeroGpr; ++i) s.gpr[i] = 0x1111 * (i + 1);
  s.set_rflags(0x8d7);
  s.seg[kGs].base = 0xffff888000000000;
  s.vec[15][31] = 0x5a;
  s.msr.tsc_offset = 0 - uint64_t{5};
  state::Saver saver;
  s.state(saver);
  const std::vector<std::byte> bytes = saver.take();

  CpuState t;
  state::Loader loader(bytes);
  t.state(loader);
  ASSERT_TRUE(loader.finish().has_value());
  EXPECT_EQ(t.gpr, s.gpr);
  EXPECT_EQ(t.rflags(), 0x8d7u);
  EXPECT_EQ(t.seg[kGs].base, 0xffff888000000000u);
  EXPECT_EQ(t.vec[15][31], 0x5a);
  EXPECT_EQ(t.msr.tsc_offset, 0 - uint64_t{5});
}

TEST(CpuState, restore_refuses_paging_without_protection) {
  CpuState s;
  s.reset(false);
  s.cr0 = cr0::kPg;
  state::Saver saver;
  s.state(saver);
  const std::vector<std::byte> bytes = saver.take();
  CpuState t;
  state::Loader loader(bytes);
  t.state(loader);
  EXPECT_TRUE(loader.failed());
}

}  // namespace
}  // namespace ostler::x86
