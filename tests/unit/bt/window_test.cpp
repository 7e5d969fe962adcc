#include "bt/window.h"

#include <gtest/gtest.h>

namespace ostler::bt {
namespace {

TEST(Window, ViewsShareEverythingButTheUserTlb) {
  auto window = Window::create();
  ASSERT_TRUE(window.has_value());
  Window& w = **window;
  mmu::Tlb* first = w.user(0);
  mmu::Tlb* second = w.user(1);
  mmu::Tlb* supervisor = w.supervisor(0);
  auto* hot = reinterpret_cast<Hot*>(Window::base_of(second));
  EXPECT_EQ(reinterpret_cast<std::byte*>(&w.hot()), Window::base_of(first));
  EXPECT_NE(hot, &w.hot());

  w.hot().cpu.gpr[0] = 0x1234;
  EXPECT_EQ(hot->cpu.gpr[0], 0x1234u);
  w.hash(true)[5].key = 77;
  EXPECT_EQ(reinterpret_cast<HashEntry*>(Window::base_of(second) + Window::kHash + Window::kHashBytes)[5].key,
            77u);
  supervisor->read_tag[9] = 0x9000;
  EXPECT_EQ(reinterpret_cast<mmu::TlbArrays*>(Window::base_of(second) + Window::kSup)->read_tag[9], 0x9000u);

  first->read_tag[9] = 0x9000;
  second->read_tag[9] = mmu::Tlb::never(9);
  EXPECT_EQ(first->read_tag[9], 0x9000u);
}

TEST(Window, AClearedHashTableHasNoRipAtAll) {
  auto window = Window::create();
  ASSERT_TRUE(window.has_value());
  Window& w = **window;
  w.hash(false)[3] = {.key = 3, .host = 1};
  w.clear_hash();
  for (const bool supervisor : {false, true})
    for (uint64_t rip = 0; rip < Window::kHashEntries; ++rip)
      EXPECT_NE(w.hash(supervisor)[rip].key, rip == 0 ? 0 : rip);
}

TEST(Window, WithoutAStackWindowNoCanonicalAddressPassesItsCheck) {
  auto window = Window::create();
  ASSERT_TRUE(window.has_value());
  Hot& hot = (*window)->hot();
  hot.window_tag = 0x5000;
  hot.window_delta = 0x7f00'0000'0000;
  hot.no_window();
  EXPECT_EQ(hot.window_delta, 0u);
  for (const uint64_t address : {uint64_t{0}, uint64_t{0x100}, uint64_t{0x7fff'ffff'f000},
                                 uint64_t{0xffff'8000'0000'0000}, ~uint64_t{0}})
    EXPECT_GT(address - hot.window_tag, 4095u);
}

}  // namespace
}  // namespace ostler::bt
