// Shapes of instructions say what decode(), facts_of() and form_of() say, wherever they say something.
#include "bt/insn_shapes.h"

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

class InsnShapesTest : public testing::TestWithParam<Mode> {
 protected:
  InsnShapesTest() { shapes_->use(model_, options_, GetParam()); }

  // Compares what the shapes say with the truth, and lets them learn what they do not know. Returns the
  // length.
  unsigned look_at(std::span<const uint8_t> code) {
    Instruction insn;
    const DecodeStatus status = x86::decode(code, size_, insn);
    Said said;
    const bool known = shapes_->read(code.data(), code.size(), said.insn, said.facts, said.form);
    const InsnShapes::Glance glance = shapes_->glance(code.data(), code.size());
    if (known) {
      ++known_;
      EXPECT_EQ(status, DecodeStatus::kOk) << x86::format(said.insn, 0);
      compare(said, code.data(), insn);
    }
    if (glance.length != 0) {
      ++glances_;
      const InsnFacts facts = facts_of(insn, model_, GetParam(), options_);
      EXPECT_EQ(status, DecodeStatus::kOk);
      EXPECT_EQ(glance.length, insn.length);
      EXPECT_EQ(glance.reads, facts.reads);
      EXPECT_EQ(glance.writes, facts.writes);
      EXPECT_EQ(glance.leads_elsewhere, facts.leads_elsewhere);
    }
    if (status != DecodeStatus::kOk) return 1;
    ++valid_;
    if (!known) shapes_->learn(code.data());
    return insn.length;
  }

  struct Said {
    Instruction insn;
    InsnFacts facts;
    Form form;
  };
  void compare(const Said& said, const uint8_t* code, const Instruction& insn) {
    const InsnFacts facts = facts_of(insn, model_, GetParam(), options_);
    Form form = form_of(insn, code, GetParam(), facts.kind);
    // What was learned from RSP is not said to be verbatim.
    EXPECT_TRUE(form.verbatim || !said.form.verbatim);
    if (said.form.verbatim) ++verbatim_;
    form.verbatim = said.form.verbatim;
    const bool same_form = said.form.simple == form.simple && (!form.simple || said.form == form);
    const bool same = std::memcmp(&said.insn, &insn, sizeof insn) == 0 && said.facts == facts && same_form;
    if (!same && ++different_ < 10)
      ADD_FAILURE() << x86::format(insn, 0) << " != " << x86::format(said.insn, 0)
                    << (said.facts == facts ? "" : ", facts") << (same_form ? "" : ", form");
  }
  bool knows(const std::vector<uint8_t>& code, size_t available) {
    Said said;
    return shapes_->read(code.data(), available, said.insn, said.facts, said.form);
  }

  Options options_;
  x86::CpuModel model_ = *x86::CpuModel::parse("max");
  CodeSize size_ = (GetParam() & mode::k32) != 0 ? CodeSize::k32 : CodeSize::k64;
  std::unique_ptr<InsnShapes> shapes_ = std::make_unique<InsnShapes>();
  unsigned known_ = 0, glances_ = 0, verbatim_ = 0, valid_ = 0, different_ = 0;
};

TEST_P(InsnShapesTest, RandomBytes) {
  std::mt19937_64 random(1);
  std::vector<uint8_t> code(1 << 20);
  std::ranges::generate(code, [&] { return static_cast<uint8_t>(random()); });
  for (size_t at = 0; at + 64 < code.size(); ++at) look_at({code.data() + at, 32});
  EXPECT_GT(known_, code.size() / 2);
  EXPECT_GT(glances_, code.size() / 2);
  EXPECT_LE(shapes_->known(), InsnShapes::kMost);
}

// What a shape was learned from has other registers, addresses and constants than what is read by it.
TEST_P(InsnShapesTest, EveryOpcodeWithOtherOperands) {
  std::mt19937_64 random(2);
  for (const unsigned prefix : {0x90, 0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x3e, 0x2e, 0x67}) {
    for (const unsigned rex : {0x90, 0x40, 0x48, 0x41, 0x44, 0x4f}) {
      for (unsigned opcode = 0; opcode < 512; ++opcode) {
        for (unsigned i = 0; i < 24; ++i) {
          std::vector<uint8_t> code;
          if (prefix != 0x90) code.push_back(static_cast<uint8_t>(prefix));
          if (rex != 0x90) code.push_back(static_cast<uint8_t>(rex));
          if (opcode >= 256) code.push_back(0x0f);
          code.push_back(static_cast<uint8_t>(opcode));
          while (code.size() < 32)
            code.push_back(static_cast<uint8_t>(random() & (i % 2 != 0 ? 0x81 : 0xff)));
          look_at(code);
          for (size_t j = code.size() - 24; j < code.size(); ++j) code[j] = static_cast<uint8_t>(random());
          look_at(code);
        }
      }
    }
  }
  EXPECT_GT(known_, 500000u);
}

TEST_P(InsnShapesTest, RealCode) {
  for (const auto code : real_code())
    for (size_t at = 0; at + 32 <= code.size();) at += look_at(code.subspan(at, 32));
  EXPECT_GT(valid_, 100000u);
  EXPECT_GT(known_, valid_ / 10 * 9);
  EXPECT_GT(verbatim_, valid_ / 5);
}

TEST_P(InsnShapesTest, AnInstructionThatIsNotAllThereIsNotFound) {
  std::vector<uint8_t> code = {0x81, 0x80, 1, 2, 3, 4, 5, 6, 7, 8};  // add dword [rax + disp32], imm32
  code.resize(32);
  look_at(code);
  EXPECT_TRUE(knows(code, 10));
  EXPECT_FALSE(knows(code, 9));
  EXPECT_EQ(shapes_->glance(code.data(), 10).length, 10);
  EXPECT_EQ(shapes_->glance(code.data(), 9).length, 0);
}

TEST_P(InsnShapesTest, OtherModesAreOtherShapes) {
  std::vector<uint8_t> code = {0x89, 0x08};
  code.resize(32);
  look_at(code);
  EXPECT_TRUE(knows(code, 32));
  shapes_->use(model_, options_, GetParam() | mode::kNoWindow);
  EXPECT_TRUE(knows(code, 32));
  for (const Mode bit :
       {mode::kSupervisor, mode::kAc, mode::kNoX87, mode::kNoSse, mode::kNoAvx, mode::kCpl0, mode::k32}) {
    shapes_->use(model_, options_, GetParam() ^ bit);
    EXPECT_FALSE(knows(code, 32)) << unsigned{bit};
    look_at(code);
  }
}

TEST_P(InsnShapesTest, TheModesThatWereUsedLastAreRemembered) {
  std::vector<uint8_t> code = {0x89, 0x08};
  code.resize(32);
  look_at(code);
  for (const Mode bit : {mode::kSupervisor, mode::kAc, mode::kNoX87}) {
    shapes_->use(model_, options_, GetParam() ^ bit);
    look_at(code);
    shapes_->use(model_, options_, GetParam());
    EXPECT_TRUE(knows(code, 32));
  }
  shapes_->use(model_, options_, GetParam() ^ mode::kNoSse);
  shapes_->use(model_, options_, GetParam());
  EXPECT_TRUE(knows(code, 32));
  shapes_->use(model_, options_, GetParam() ^ mode::kSupervisor);
  EXPECT_FALSE(knows(code, 32));
}

TEST_P(InsnShapesTest, OtherOptionsForgetEverything) {
  std::vector<uint8_t> code = {0x0f, 0x31};  // rdtsc
  code.resize(32);
  look_at(code);
  shapes_->use(model_, options_, GetParam());
  EXPECT_TRUE(knows(code, 32));
  options_.tsc = true;
  shapes_->use(model_, options_, GetParam());
  EXPECT_FALSE(knows(code, 32));
}

INSTANTIATE_TEST_SUITE_P(Modes, InsnShapesTest,
                         testing::Values(Mode{0}, Mode{mode::kSupervisor | mode::kCpl0}, Mode{mode::k32}));

}  // namespace
}  // namespace ostler::bt
