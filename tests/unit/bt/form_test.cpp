// What is written by an instruction's Form is what is written by renaming its registers each time.
#include "bt/form.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bt/translator.h"
#include "real_code.h"
#include "rig.h"

namespace ostler::bt {
namespace {

class FormTest : public testing::TestWithParam<Mode> {
 protected:
  FormTest() {
    rig_.state().cr0 = x86::cr0::kPe;  // linear addresses are physical ones
    if (!cache().take_arena(arena_)) throw std::bad_alloc();
    cache().populate(arena_);
  }
  CodeCache& cache() { return *rig_.shared->cache; }

  std::string host_code(const GuestCode& code, uint32_t page, uint32_t second) {
    const Draft& draft = translator_.translate(code, page, second, arena_);
    const auto bytes = [&](const Range& range) {
      return std::string(reinterpret_cast<const char*>(cache().executable(range.next)), range.left());
    };
    return bytes(draft.hot) + bytes(draft.cold);
  }

  // Every block of what lies at kText, one behind the other.
  void compare(uint64_t bytes) {
    for (uint64_t at = kText; at + 16 < kText + bytes;) {
      read_guest_code(*rig_.mmu, rig_.model, at, at, GetParam(), rig_.shared->options, *code_);
      const uint32_t page = cache().own_page(at, at);
      const uint32_t second =
          code_->straddles ? cache().own_page((at | kPageMask) + 1, code_->second_phys) : kNone;
      const std::string by_form = host_code(*code_, page, second);
      for (unsigned i = 0; i < code_->count; ++i) {
        simple_ += code_->insns[i].form.simple;
        code_->insns[i].form = {};
      }
      ASSERT_EQ(host_code(*code_, page, second), by_form) << std::hex << at;
      at += code_->bytes;
    }
  }

  Rig rig_{Options{.cache_bytes = size_t{4} << 20}};
  Arena arena_;
  Translator translator_{cache(), rig_.shared->routines, rig_.shared->options};
  std::unique_ptr<GuestCode> code_ = std::make_unique<GuestCode>();
  unsigned simple_ = 0;
};

TEST_P(FormTest, RealCode) {
  constexpr uint64_t kBytes = 512 << 10;
  const auto code = std::ranges::max(real_code(), {}, [](auto segment) { return segment.size(); });
  ASSERT_GE(code.size(), kBytes);
  std::memcpy(rig_.at(kText), code.data(), kBytes);
  compare(kBytes);
  EXPECT_GT(simple_, 50'000u);
}

TEST_P(FormTest, RandomBytes) {
  std::mt19937_64 random(3);
  constexpr uint64_t kBytes = 512 << 10;
  for (uint64_t i = 0; i < kBytes; i += 8) store_le<uint64_t>(rig_.at(kText + i), random());
  compare(kBytes);
  EXPECT_GT(simple_, 20'000u);
}

INSTANTIATE_TEST_SUITE_P(Modes, FormTest,
                         testing::Values(Mode{mode::kSupervisor | mode::kCpl0}, Mode{mode::kNoWindow},
                                         Mode{mode::k32}));

}  // namespace
}  // namespace ostler::bt
