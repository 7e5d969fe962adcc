#include "state/archive.h"

#include <gtest/gtest.h>

#include <random>

namespace ostler::state {
namespace {

enum class Mode : uint8_t { kIdle = 1, kBusy = 200 };

struct Sample {
  bool flag = false;
  int8_t small = 0;
  uint16_t word = 0;
  uint64_t wide = 0;
  Mode mode = Mode::kIdle;
  std::array<uint32_t, 3> list{};
  uint8_t block[5] = {};
  std::vector<uint16_t> queue;
  std::string text;

  void state(Archive& a) {
    a.section("sample", 2);
    a.field("flag", flag);
    a.field("small", small);
    a.field("word", word);
    a.field("wide", wide);
    a.field("mode", mode);
    a.field("list", list);
    a.field("block", block);
    a.field("queue", queue, 8);
    a.field("text", text, 16);
    a.check(word < 1000, "word");
  }
  bool operator==(const Sample&) const = default;
};

Sample example() {
  Sample s;
  s.flag = true;
  s.small = -3;
  s.word = 999;
  s.wide = 0xfedcba9876543210;
  s.mode = Mode::kBusy;
  s.list = {1, 2, 0xffffffff};
  s.block[4] = 7;
  s.queue = {5, 6};
  s.text = "ostler";
  return s;
}

std::vector<std::byte> saved(Sample sample) {
  Saver saver;
  sample.state(saver);
  return saver.take();
}

TEST(Archive, LoadsWhatWasSaved) {
  const std::vector<std::byte> stream = saved(example());
  Sample loaded;
  Loader loader(stream);
  loaded.state(loader);
  EXPECT_TRUE(loader.finish()) << loader.error();
  EXPECT_EQ(loaded, example());
}

TEST(Archive, RejectsEveryTruncation) {
  const std::vector<std::byte> stream = saved(example());
  for (size_t size = 0; size < stream.size(); ++size) {
    Sample loaded;
    Loader loader(std::span<const std::byte>(stream).first(size));
    loaded.state(loader);
    EXPECT_FALSE(loader.finish()) << size;
  }
}

TEST(Archive, RejectsTrailingBytes) {
  std::vector<std::byte> stream = saved(example());
  stream.push_back(std::byte{0});
  Sample loaded;
  Loader loader(stream);
  loaded.state(loader);
  EXPECT_FALSE(loader.finish());
}

TEST(Archive, RejectsValueThatBreaksAnInvariant) {
  Sample bad = example();
  bad.word = 1000;
  const std::vector<std::byte> stream = saved(bad);
  Sample loaded;
  Loader loader(stream);
  loaded.state(loader);
  const auto result = loader.finish();
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message().find("word"), std::string::npos);
}

TEST(Archive, RejectsVectorLongerThanItsBound) {
  Sample bad = example();
  bad.queue.resize(9);
  const std::vector<std::byte> stream = saved(bad);
  Sample loaded;
  Loader loader(stream);
  loaded.state(loader);
  EXPECT_FALSE(loader.finish());
  EXPECT_TRUE(loaded.queue.empty());
}

TEST(Archive, RejectsRenamedField) {
  Saver saver;
  uint32_t value = 1;
  saver.section("x", 1);
  saver.field("old", value);
  const std::vector<std::byte> stream = saver.take();
  Loader loader(stream);
  loader.section("x", 1);
  loader.field("new", value);
  EXPECT_FALSE(loader.finish());
}

TEST(Archive, RejectsFieldOfAnotherSize) {
  Saver saver;
  uint32_t wide = 1;
  saver.field("v", wide);
  const std::vector<std::byte> stream = saver.take();
  Loader loader(stream);
  uint16_t narrow = 0;
  loader.field("v", narrow);
  EXPECT_FALSE(loader.finish());
}

TEST(Archive, GivesTheVersionOfTheStream) {
  Saver saver;
  saver.section("x", 1);
  const std::vector<std::byte> stream = saver.take();
  Loader loader(stream);
  loader.section("x", 3);
  EXPECT_EQ(loader.version(), 1u);
  EXPECT_TRUE(loader.finish());
}

TEST(Archive, RejectsVersionFromTheFuture) {
  Saver saver;
  saver.section("x", 4);
  const std::vector<std::byte> stream = saver.take();
  Loader loader(stream);
  loader.section("x", 3);
  EXPECT_FALSE(loader.finish());
}

TEST(Archive, SurvivesRandomStreams) {
  const std::vector<std::byte> good = saved(example());
  std::mt19937 random(20261120);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> stream = good;
    for (unsigned changes = 1 + random() % 4; changes != 0; --changes)
      stream[random() % stream.size()] = static_cast<std::byte>(random());
    Sample loaded;
    Loader loader(stream);
    loaded.state(loader);
    const bool fine = loader.finish().has_value();
    EXPECT_LE(loaded.queue.size(), 8u);
    if (fine) {
      EXPECT_LT(loaded.word, 1000);
    }
  }
}

}  // namespace
}  // namespace ostler::state
