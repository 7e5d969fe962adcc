#include "img/text.h"

#include <gtest/gtest.h>

namespace ostler::img {
namespace {

TEST(ImageText, SizesHaveThreeDigitsBelowAThousandOfAUnit) {
  EXPECT_EQ(size_text(0), "0 B");
  EXPECT_EQ(size_text(512), "512 B");
  EXPECT_EQ(size_text(999), "999 B");
  EXPECT_EQ(size_text(1000), "0.977 KiB");
  EXPECT_EQ(size_text(196 * 1024), "196 KiB");
  EXPECT_EQ(size_text(3 << 19), "1.5 MiB");
  EXPECT_EQ(size_text(uint64_t{7} << 60), "7 EiB");
}

TEST(ImageText, Durations) {
  EXPECT_EQ(duration_text(59), "59 s");
  EXPECT_EQ(duration_text(65), "1:05");
  EXPECT_EQ(duration_text(7209), "2:00:09");
}

TEST(ImageText, NumbersOutOfRangeNameTheOption) {
  EXPECT_EQ(*number_of_option("-m", "16", 1, 16), 16u);
  EXPECT_EQ(number_of_option("-m", "17", 1, 16).error().message(), "-m: '17' is not a number from 1 to 16");
  EXPECT_FALSE(number_of_option("-m", "", 0, 16));
  EXPECT_FALSE(number_of_option("-m", "4x", 0, 16));
  EXPECT_FALSE(number_of_option("-m", "-1", 0, 16));
  EXPECT_EQ(*number_of_option("-m", "0xf", 0, 16), 15u);
}

}  // namespace
}  // namespace ostler::img
