// What an option's words mean, beside the command line as a whole.
#include "config/key_values.h"

#include <gtest/gtest.h>

namespace ostler::config {
namespace {

std::optional<bool> bool_of(std::string_view text, std::string_view key) {
  auto keys = KeyValues::parse("-chardev", text, "backend");
  EXPECT_TRUE(keys.has_value());
  const auto value = keys->take_bool(key);
  EXPECT_TRUE(value.has_value());
  EXPECT_EQ(keys->take_all("nowait").size(), 0u) << "the short form is left over";
  return *value;
}

TEST(KeyValues, AWordAloneTurnsASettingOn) {
  EXPECT_EQ(bool_of("socket,wait", "wait"), true);
}

TEST(KeyValues, AWordWithNoBeforeItTurnsASettingOff) {
  EXPECT_EQ(bool_of("socket,server,nowait", "wait"), false);
}

TEST(KeyValues, TheLastOfBothFormsCounts) {
  EXPECT_EQ(bool_of("socket,nowait,wait=on", "wait"), true);
  EXPECT_EQ(bool_of("socket,wait=on,nowait", "wait"), false);
}

TEST(KeyValues, AWordThatOnlyBeginsWithNoIsItself) {
  EXPECT_EQ(bool_of("socket,notice", "notice"), true);
}

}  // namespace
}  // namespace ostler::config
