#include "base/symbols.h"

#include <gtest/gtest.h>

namespace ostler::symbols {
namespace {

class Symbols : public ::testing::Test {
 protected:
  ~Symbols() override { set({}); }
};

TEST_F(Symbols, NameWhatLiesInThem) {
  set({{0x2000, 0x10, "second"}, {0x1000, 0x80, "first"}});
  EXPECT_EQ(at(0x1000), " <first>");
  EXPECT_EQ(at(0x107f), " <first+0x7f>");
  EXPECT_EQ(at(0x1080), "");
  EXPECT_EQ(at(0x200f), " <second+0xf>");
  EXPECT_EQ(at(0x2010), "");
  EXPECT_EQ(at(0xfff), "");
  EXPECT_EQ(at(~uint64_t{0}), "");
}

TEST_F(Symbols, ThoseWithoutASizeEndAtTheNextOrSoon) {
  set({{0x1000, 0, "label"}, {0x1100, 0, "next"}});
  EXPECT_EQ(at(0x10ff), " <label+0xff>");
  EXPECT_EQ(at(0x1100), " <next>");
  EXPECT_EQ(at(0x20ff), " <next+0xfff>");
  EXPECT_EQ(at(0x2100), "");
}

TEST_F(Symbols, OfTwoAtOneAddressTheOneThatTellsItsSizeCounts) {
  set({{0x1000, 0, "label"}, {0x1000, 8, "function"}});
  EXPECT_EQ(at(0x1004), " <function+0x4>");
  EXPECT_EQ(at(0x1008), "");
}

TEST_F(Symbols, OthersTakeTheirPlace) {
  set({{0x1000, 8, "one"}});
  set({{0x3000, 8, "other"}});
  EXPECT_EQ(at(0x1000), "");
  EXPECT_EQ(at(0x3000), " <other>");
}

}  // namespace
}  // namespace ostler::symbols
