// A second opinion on the decoder: Zydis reads the same bytes, and everything that both describe has to
// agree. Seeds are fixed so that a failure repeats; OSTLER_DECODER_ROUNDS=n runs n seeds instead of one.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "zydis_compare.h"

namespace ostler::x86 {
namespace {

unsigned rounds() {
  const char* text = std::getenv("OSTLER_DECODER_ROUNDS");
  return text == nullptr ? 1 : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

// Feeds byte strings to both decoders and keeps one example of each kind of difference.
class Campaign {
 public:
  explicit Campaign(uint64_t seed) : random_(seed) {}

  uint8_t byte() { return static_cast<uint8_t>(random_()); }
  bool one_in(unsigned n) { return random_() % n == 0; }

  void compare(std::vector<uint8_t> code, CodeSize code_size) {
    while (code.size() < 24) code.push_back(byte());
    const Comparison result = compare_with_zydis(code, code_size);
    ++total_;
    if (result.both_valid) ++valid_;
    if (!result.equal) differences_.try_emplace(result.kind, result.detail);
  }

  void expect_agreement(size_t at_least_valid) const {
    EXPECT_GE(valid_, at_least_valid) << "of " << total_;
    for (const auto& [kind, detail] : differences_) ADD_FAILURE() << kind << "\n" << detail;
  }

 private:
  std::mt19937_64 random_;
  size_t total_ = 0, valid_ = 0;
  std::map<std::string, std::string> differences_;
};

constexpr std::array kModes = {CodeSize::k16, CodeSize::k32, CodeSize::k64};

const std::vector<std::vector<uint8_t>> kPrefixes = {
    {},           {},           {},           {0x66},       {0xf3},       {0xf2},
    {0x66, 0xf3}, {0xf2, 0x66}, {0xf0},       {0xf3, 0xf2}, {0xf0, 0x66}, {0xf0, 0xf2},
    {0xf0, 0xf3}, {0x67},       {0x67, 0x66}, {0x64},       {0x2e, 0x67}, {0x3e, 0x65},
    {0x64, 0x36}, {0x66, 0x66}, {0x48, 0x66}, {0x4f, 0xf3},
};

TEST(DecoderZydis, EveryLegacyOpcodeAndModrm) {
  for (unsigned round = 0; round < rounds(); ++round) {
    Campaign campaign(1000 + round);
    for (const CodeSize mode : kModes) {
      for (unsigned map = 0; map < 4; ++map) {
        for (unsigned i = 0; i < 0x10000; ++i) {
          std::vector<uint8_t> code = kPrefixes[campaign.byte() % kPrefixes.size()];
          if (mode == CodeSize::k64 && campaign.one_in(2)) code.push_back(0x40 | (campaign.byte() & 15));
          if (map > 0) code.push_back(0x0f);
          if (map > 1) code.push_back(map == 2 ? 0x38 : 0x3a);
          code.push_back(static_cast<uint8_t>(i >> 8));
          code.push_back(static_cast<uint8_t>(i));
          campaign.compare(code, mode);
        }
      }
    }
    campaign.expect_agreement(290'000);
  }
}

TEST(DecoderZydis, EveryVexOpcodeAndModrm) {
  for (unsigned round = 0; round < rounds(); ++round) {
    Campaign campaign(2000 + round);
    for (const CodeSize mode : kModes) {
      const bool long_mode = mode == CodeSize::k64;
      for (unsigned map = 1; map < 4; ++map) {
        for (unsigned i = 0; i < 0x10000; ++i) {
          std::vector<uint8_t> code;
          if (campaign.one_in(64)) code = kPrefixes[campaign.byte() % kPrefixes.size()];
          if (long_mode && campaign.one_in(64)) code.push_back(0x40 | (campaign.byte() & 15));
          uint8_t last = campaign.byte();                    // W vvvv L pp
          if (campaign.one_in(2)) last |= 0x78;              // vvvv unused
          if (campaign.one_in(2)) last = (last & 0xfc) | 1;  // 66 is what most have
          if (map == 1 && campaign.one_in(2)) {
            code.push_back(0xc5);
            code.push_back(long_mode ? last : last | 0xc0);
          } else {
            uint8_t second = static_cast<uint8_t>(campaign.byte() & 0xe0);
            if (!long_mode) second |= 0xc0;
            second |= static_cast<uint8_t>(campaign.one_in(64) ? campaign.byte() & 31 : map);
            code.insert(code.end(), {0xc4, second, last});
          }
          code.push_back(static_cast<uint8_t>(i >> 8));
          code.push_back(static_cast<uint8_t>(i));
          campaign.compare(code, mode);
        }
      }
    }
    campaign.expect_agreement(60'000);
  }
}

TEST(DecoderZydis, RandomBytes) {
  for (unsigned round = 0; round < rounds(); ++round) {
    Campaign campaign(3000 + round);
    for (const CodeSize mode : kModes)
      for (unsigned i = 0; i < 300'000; ++i) campaign.compare({}, mode);
    campaign.expect_agreement(500'000);
  }
}

}  // namespace
}  // namespace ostler::x86
