// What stands in front of a network: captures and limits.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "fake_network.h"
#include "net/dump_filter.h"
#include "net/rate_filter.h"

namespace ostler::net {
namespace {

using test::Card;
using test::FakeBackend;
using test::frame;
using test::numbered_frame;

class DumpTest : public testing::Test {
 protected:
  DumpTest() : path(testing::TempDir() + "ostler-capture-" + std::to_string(getpid())) {}
  ~DumpTest() override { ::unlink(path.c_str()); }
  void start(FilterDirection direction = FilterDirection::kBoth, uint32_t max_length = 65536) {
    auto file = PcapFile::create(path, max_length);
    ASSERT_TRUE(file) << file.error().message();
    filter = std::make_unique<DumpFilter>(network, *std::move(file), direction);
    filter->attach(&card);
  }
  std::string content() const {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  // The frames of the capture, as far as they are kept.
  std::vector<std::string> captured() const {
    const std::string all = content();
    std::vector<std::string> frames;
    for (size_t at = 24; at + 16 <= all.size();) {
      uint32_t lengths[2];
      std::memcpy(lengths, all.data() + at + 8, sizeof lengths);
      frames.push_back(all.substr(at + 16, lengths[0]));
      at += 16 + lengths[0];
    }
    return frames;
  }
  std::string path;
  FakeBackend network;
  Card card;
  std::unique_ptr<DumpFilter> filter;
};

TEST_F(DumpTest, begins_with_the_header_of_pcap) {
  start(FilterDirection::kBoth, 100);
  EXPECT_EQ(content(), std::string("\xd4\xc3\xb2\xa1\x02\x00\x04\x00", 8) + std::string(8, '\0') +
                           std::string("\x64\x00\x00\x00\x01\x00\x00\x00", 8));
}

TEST_F(DumpTest, keeps_frames_of_both_directions_in_order) {
  start();
  EXPECT_TRUE(filter->send(frame(numbered_frame(1)), 0));
  EXPECT_TRUE(network.receiver->receive(frame(numbered_frame(2)), 0));
  EXPECT_EQ(captured(), (std::vector<std::string>{numbered_frame(1), numbered_frame(2)}));
  EXPECT_EQ(network.frames.size(), 1u);
  EXPECT_EQ(card.frames.size(), 1u);
}

TEST_F(DumpTest, one_direction_alone) {
  start(FilterDirection::kFromGuest);
  filter->send(frame(numbered_frame(1)), 0);
  network.receiver->receive(frame(numbered_frame(2)), 0);
  EXPECT_EQ(captured(), std::vector<std::string>{numbered_frame(1)});
}

TEST_F(DumpTest, long_frames_are_cut_and_their_length_is_told) {
  start(FilterDirection::kBoth, 20);
  filter->send(frame(numbered_frame(1, 60)), 0);
  EXPECT_EQ(captured(), std::vector<std::string>{numbered_frame(1, 60).substr(0, 20)});
  uint32_t length = 0;
  std::memcpy(&length, content().data() + 24 + 12, sizeof length);
  EXPECT_EQ(length, 60u);
}

TEST_F(DumpTest, a_frame_that_was_refused_is_captured_once_it_passes) {
  start();
  network.room = 0;
  EXPECT_FALSE(filter->send(frame(numbered_frame(1)), 0));
  EXPECT_TRUE(captured().empty());
  network.room = 1;
  EXPECT_TRUE(filter->send(frame(numbered_frame(1)), 0));
  EXPECT_EQ(captured().size(), 1u);
}

TEST_F(DumpTest, a_full_disk_ends_the_capture_and_not_the_network) {
  auto file = PcapFile::create("/dev/full", 65536);
  EXPECT_FALSE(file);
  EXPECT_NE(file.error().message().find("/dev/full"), std::string::npos);
}

TEST(TokenBucket, a_burst_passes_and_then_the_rate) {
  TokenBucket bucket(1000, 100);  // bytes a second
  EXPECT_EQ(bucket.wait(0), 0);
  bucket.take(100);
  const int64_t left = bucket.wait(0);
  EXPECT_GT(left, 0);
  EXPECT_EQ(bucket.wait(left), 0);
}

TEST(TokenBucket, a_frame_larger_than_the_burst_is_paid_for_afterwards) {
  TokenBucket bucket(1000, 10);
  EXPECT_EQ(bucket.wait(0), 0);
  bucket.take(1010);
  EXPECT_GE(bucket.wait(0), 1'000'000'000);
  EXPECT_GT(bucket.wait(999'000'000), 0);
  EXPECT_EQ(bucket.wait(1'001'000'000), 0);
}

TEST(TokenBucket, a_pause_saves_no_more_than_the_burst) {
  TokenBucket bucket(1000, 100);
  EXPECT_EQ(bucket.wait(int64_t{3600} * 1'000'000'000), 0);
  bucket.take(100);
  EXPECT_GT(bucket.wait(int64_t{3600} * 1'000'000'000), 0);
}

class RateTest : public testing::Test {
 protected:
  RateTest() {
    RateOptions options;
    options.rate = 6000;  // 100 of our frames a second
    options.burst = 60;
    filter = std::make_unique<RateFilter>(network, loop, options);
    filter->attach(&card);
  }
  void pass(int64_t ns) {
    clock.advance(ns);
    loop.run_due();
  }
  event::VirtualClock clock;
  event::Loop loop{clock};
  FakeBackend network;
  Card card;
  std::unique_ptr<RateFilter> filter;
};

TEST_F(RateTest, the_guest_waits_until_it_may_send_again) {
  EXPECT_TRUE(filter->send(frame(numbered_frame(1)), 0));
  EXPECT_FALSE(filter->send(frame(numbered_frame(2)), 0));
  EXPECT_EQ(card.sendables, 0);
  pass(11'000'000);
  EXPECT_EQ(card.sendables, 1);
  EXPECT_TRUE(filter->send(frame(numbered_frame(2)), 0));
  EXPECT_EQ(network.frames.size(), 2u);
}

TEST_F(RateTest, the_network_keeps_its_frame_until_it_is_asked) {
  EXPECT_TRUE(network.receiver->receive(frame(numbered_frame(1)), 0));
  EXPECT_FALSE(network.receiver->receive(frame(numbered_frame(2)), 0));
  EXPECT_EQ(network.ready, 0);
  pass(11'000'000);
  EXPECT_EQ(network.ready, 1);
  EXPECT_TRUE(network.receiver->receive(frame(numbered_frame(2)), 0));
  EXPECT_EQ(card.frames.size(), 2u);
}

TEST_F(RateTest, a_frame_that_the_network_refused_costs_nothing) {
  network.room = 0;
  EXPECT_FALSE(filter->send(frame(numbered_frame(1)), 0));
  network.room = 1;
  EXPECT_TRUE(filter->send(frame(numbered_frame(1)), 0));
}

TEST_F(RateTest, no_more_than_the_rate_passes_in_a_second) {
  size_t sent = 0;
  for (int step = 0; step < 1000; ++step) {
    while (filter->send(frame(numbered_frame(1)), 0)) ++sent;
    pass(1'000'000);
  }
  EXPECT_GE(sent, 99u);
  EXPECT_LE(sent, 102u);
}

}  // namespace
}  // namespace ostler::net
