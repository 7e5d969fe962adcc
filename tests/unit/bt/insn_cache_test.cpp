// The cache of decoded instructions says what decode(), facts_of() and form_of() say, wherever it says
// something.
#include "bt/insn_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "real_code.h"
#include "x86/format.h"

namespace ostler::bt {
namespace {

using x86::CodeSize;
using x86::DecodeStatus;
using x86::Instruction;

class InsnCacheTest : public testing::TestWithParam<Mode> {
 protected:
  InsnCacheTest() { cache_->use(model_, options_); }

  // Compares what the cache has with the truth, and gives it what it does not have. Returns the length.
  unsigned look_at(std::span<const uint8_t> code) {
    Instruction insn;
    const DecodeStatus status = x86::decode(code, size_, insn);
    const InsnCache::Entry* known = cache_->find(code.data(), code.size(), GetParam());
    if (known != nullptr) {
      ++known_;
      EXPECT_EQ(status, DecodeStatus::kOk) << x86::format(insn, 0);
      compare(*known, code.data(), insn);
    }
    if (status != DecodeStatus::kOk) return 1;
    ++valid_;
    if (known == nullptr) {
      const InsnFacts facts = facts_of(insn, model_, GetParam(), options_);
      cache_->add(code.data(), GetParam(), insn, facts, form_of(insn, code.data(), GetParam(), facts.kind));
    }
    return insn.length;
  }

  void compare(const InsnCache::Entry& known, const uint8_t* code, const Instruction& insn) {
    Instruction out;
    known.instruction(code, out);
    InsnFacts facts = known.facts();
    if (known.flags_by_immediate()) set_flag_facts(facts, out);
    const bool same = std::memcmp(&out, &insn, sizeof insn) == 0 && known.length() == insn.length &&
                      facts == facts_of(insn, model_, GetParam(), options_) &&
                      known.form() == form_of(insn, code, GetParam(), facts.kind);
    if (!same && ++different_ < 10) ADD_FAILURE() << x86::format(insn, 0) << " != " << x86::format(out, 0);
  }

  Options options_;
  x86::CpuModel model_ = *x86::CpuModel::parse("max");
  CodeSize size_ = (GetParam() & mode::k32) != 0 ? CodeSize::k32 : CodeSize::k64;
  std::unique_ptr<InsnCache> cache_ = std::make_unique<InsnCache>();
  unsigned known_ = 0, valid_ = 0, different_ = 0;
};

TEST_P(InsnCacheTest, RandomBytes) {
  std::mt19937_64 random(1);
  std::vector<uint8_t> code(1 << 20);
  std::ranges::generate(code, [&] { return static_cast<uint8_t>(random()); });
  for (size_t at = 0; at + 64 < code.size(); ++at) look_at({code.data() + at, 32});
  EXPECT_GT(known_, 1000u);
}

// Few leading bytes and many constants, so that entries are found with others than they were made of.
TEST_P(InsnCacheTest, EveryOpcodeWithOtherConstants) {
  std::mt19937_64 random(2);
  for (const unsigned prefix : {0x90, 0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x67}) {
    for (const unsigned rex : {0x90, 0x48, 0x41}) {
      for (unsigned opcode = 0; opcode < 512; ++opcode) {
        for (unsigned i = 0; i < 24; ++i) {
          std::vector<uint8_t> code;
          if (prefix != 0x90) code.push_back(static_cast<uint8_t>(prefix));
          if (rex != 0x90) code.push_back(static_cast<uint8_t>(rex));
          if (opcode >= 256) code.push_back(0x0f);
          code.push_back(static_cast<uint8_t>(opcode));
          code.push_back(static_cast<uint8_t>(random() & 0xfd));
          code.push_back(static_cast<uint8_t>(random() & 0x27));
          while (code.size() < 32)
            code.push_back(static_cast<uint8_t>(random() & (i % 2 != 0 ? 0x81 : 0xff)));
          look_at(code);
          for (size_t j = code.size() - 24; j < code.size(); ++j) code[j] = static_cast<uint8_t>(random());
          look_at(code);
        }
      }
    }
  }
  EXPECT_GT(known_, 20000u);
}

TEST_P(InsnCacheTest, RealCode) {
  for (const auto code : real_code())
    for (size_t at = 0; at + 32 <= code.size();) at += look_at(code.subspan(at, 32));
  EXPECT_GT(valid_, 100000u);
  EXPECT_GT(known_, valid_ / 2);
}

// Where instructions to come begin is guessed, but rarely wrong; what is told of those that do begin there is
// what they would be found by.
TEST_P(InsnCacheTest, LooksAhead) {
  unsigned right = 0, wrong = 0;
  std::array<InsnCache::Ahead, InsnCache::kAhead> ahead;
  for (const auto code : real_code()) {
    for (size_t start = 0; start + 4096 <= code.size(); start += 4096) {
      const std::span<const uint8_t> page = code.subspan(start, 4096);
      std::vector<bool> begins(page.size());
      for (size_t at = 0; at + 32 <= page.size(); at += look_at(page.subspan(at, 32))) begins[at] = true;
      for (unsigned at = 0; at + 128 <= page.size(); ++at) {
        if (!begins[at]) continue;
        const unsigned read = at + 64;
        const unsigned count = cache_->look_ahead(page.data(), at, read, GetParam(), ahead);
        for (unsigned i = 0; i < count; ++i) {
          ASSERT_LE(ahead[i].at + sizeof(uint64_t), read);
          ASSERT_TRUE(i != 0 || ahead[i].at == at);
          ++(begins[ahead[i].at] ? right : wrong);
          const uint8_t* bytes = page.data() + ahead[i].at;
          ASSERT_EQ(cache_->find(ahead[i].key, 15), cache_->find(bytes, 15, GetParam()));
        }
      }
    }
  }
  EXPECT_GT(right, 100000u);
  EXPECT_LT(wrong, right / 50);
}

TEST_P(InsnCacheTest, AnInstructionThatIsNotAllThereIsNotFound) {
  std::vector<uint8_t> code = {0x81, 0x80, 1, 2, 3, 4, 5, 6, 7, 8};  // add dword [rax + disp32], imm32
  code.resize(32);
  look_at(code);
  EXPECT_NE(cache_->find(code.data(), 10, GetParam()), nullptr);
  EXPECT_EQ(cache_->find(code.data(), 9, GetParam()), nullptr);
}

TEST_P(InsnCacheTest, OtherModesAreOtherEntries) {
  std::vector<uint8_t> code = {0x89, 0x08};
  code.resize(32);
  look_at(code);
  EXPECT_NE(cache_->find(code.data(), 32, GetParam()), nullptr);
  EXPECT_NE(cache_->find(code.data(), 32, GetParam() | mode::kNoWindow), nullptr);
  for (const Mode bit :
       {mode::kSupervisor, mode::kAc, mode::kNoX87, mode::kNoSse, mode::kNoAvx, mode::kCpl0, mode::k32})
    EXPECT_EQ(cache_->find(code.data(), 32, GetParam() ^ bit), nullptr) << unsigned{bit};
}

TEST_P(InsnCacheTest, OtherOptionsForgetEverything) {
  std::vector<uint8_t> code = {0x0f, 0x31};  // rdtsc
  code.resize(32);
  look_at(code);
  cache_->use(model_, options_);
  EXPECT_NE(cache_->find(code.data(), 32, GetParam()), nullptr);
  options_.tsc = true;
  cache_->use(model_, options_);
  EXPECT_EQ(cache_->find(code.data(), 32, GetParam()), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Modes, InsnCacheTest,
                         testing::Values(Mode{0}, Mode{mode::kSupervisor | mode::kCpl0}, Mode{mode::k32}));

}  // namespace
}  // namespace ostler::bt
