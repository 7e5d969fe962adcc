#include "img/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace ostler::img {
namespace {

class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { file = open_memstream(&text, &size); }
  void TearDown() override { std::free(text); }
  std::string written() {
    std::fclose(file);
    return std::string(text, size);
  }
  char* text = nullptr;
  size_t size = 0;
  std::FILE* file = nullptr;
};

TEST_F(ProgressTest, PercentagesAreToldOncePerPercent) {
  {
    Progress progress(Progress::Form::kPercent, "convert", 1000, file);
    for (int i = 0; i < 100; ++i) progress.advance(5);
    progress.finish();
  }
  const std::string all = written();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\r'), 52);  // 0, 50 steps, 100
  EXPECT_TRUE(all.starts_with("    (0.00/100%)\r    (1.00/100%)\r")) << all;
  EXPECT_TRUE(all.ends_with("    (50.00/100%)\r    (100.00/100%)\r\n")) << all;
}

TEST_F(ProgressTest, NothingOnceItIsOver) {
  { Progress progress(Progress::Form::kNone, "convert", 1000, file); }
  EXPECT_EQ(written(), "");
}

TEST_F(ProgressTest, AnEmptyWholeIsDone) {
  {
    Progress progress(Progress::Form::kPercent, "convert", 0, file);
    progress.advance(0);
  }
  EXPECT_EQ(written(), "    (0.00/100%)\r    (100.00/100%)\r\n");
}

}  // namespace
}  // namespace ostler::img
