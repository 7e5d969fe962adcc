#include "img/arguments.h"

#include <gtest/gtest.h>

namespace ostler::img {
namespace {

constexpr OptionName kOptions[] = {{"f", 'f', "", true},
                                   {"p", 'p'},
                                   {"q", 'q', "quiet"},
                                   {"output", 0, "output", true},
                                   {"outer", 0, "outer"}};

Result<Arguments> parse(const std::vector<std::string>& words) {
  return parse_arguments(kOptions, words);
}
std::string error_of(const std::vector<std::string>& words) {
  auto parsed = parse(words);
  return parsed ? "" : parsed.error().message();
}

TEST(Arguments, OptionsMayStandBehindOperands) {
  const auto parsed = parse({"disk", "-f", "raw", "other"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->operands, (std::vector<std::string>{"disk", "other"}));
  EXPECT_EQ(parsed->value("f"), "raw");
}

TEST(Arguments, LettersMayBeJoinedAndTakeTheRestAsValue) {
  const auto parsed = parse({"-qpfraw"});
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed->has("q"));
  EXPECT_TRUE(parsed->has("p"));
  EXPECT_EQ(parsed->value("f"), "raw");
}

TEST(Arguments, LongNamesTakeTheirValueEitherWay) {
  EXPECT_EQ(parse({"--output=json"})->value("output"), "json");
  EXPECT_EQ(parse({"--output", "json"})->value("output"), "json");
}

TEST(Arguments, LongNamesMayBeShortenedWhileUnique) {
  EXPECT_TRUE(parse({"--qu"})->has("q"));
  EXPECT_EQ(error_of({"--out", "x"}), "option '--out' is ambiguous: --output or --outer");
}

TEST(Arguments, TheLastOfSeveralCountsAndAllAreKept) {
  const auto parsed = parse({"-f", "raw", "-f", "vdi"});
  EXPECT_EQ(parsed->value("f"), "vdi");
  EXPECT_EQ(parsed->values("f"), (std::vector<std::string>{"raw", "vdi"}));
}

TEST(Arguments, TwoDashesEndTheOptions) {
  const auto parsed = parse({"--", "-f", "--output"});
  EXPECT_EQ(parsed->operands, (std::vector<std::string>{"-f", "--output"}));
}

TEST(Arguments, OneDashIsAnOperand) {
  EXPECT_EQ(parse({"-"})->operands, std::vector<std::string>{"-"});
}

TEST(Arguments, MistakesAreNamed) {
  EXPECT_EQ(error_of({"-x"}), "there is no option '-x' of this command");
  EXPECT_EQ(error_of({"--quite"}), "there is no option '--quite' of this command; did you mean 'quiet'?");
  EXPECT_EQ(error_of({"-f"}), "option '-f' needs a value");
  EXPECT_EQ(error_of({"--output"}), "option '--output' needs a value");
  EXPECT_EQ(error_of({"--quiet=1"}), "option '--quiet' takes no value");
}

}  // namespace
}  // namespace ostler::img
