// Fault injection, write log, throttling.
#include "block/filters/fault_node.h"
#include "block/filters/throttle.h"
#include "block/null/null_node.h"
#include "block_fixture.h"
#include "write_log_node.h"

namespace ostler::block {
namespace {

using test::BlockTest;
using test::WriteLogNode;

TEST_F(BlockTest, faults_come_at_the_request_that_a_rule_names) {
  auto node = std::make_shared<FaultNode>();
  ASSERT_TRUE(node->connect(std::make_shared<NullNode>(1 << 20), pass_through_permissions(true)));
  node->add({.kinds = kFaultWrite, .error = ENOSPC, .skip = 2, .once = true});
  const std::string sector(512, 'x');
  EXPECT_EQ(write(*node, 0, sector), 0);
  EXPECT_EQ(write(*node, 0, sector), 0);
  EXPECT_EQ(write(*node, 0, sector), -ENOSPC);
  EXPECT_EQ(write(*node, 0, sector), 0);
  node->add({.kinds = kFaultFlush});
  EXPECT_EQ(flush(*node), -EIO);
  EXPECT_EQ(flush(*node), -EIO);
  EXPECT_EQ(node->count(kFaultWrite | kFaultFlush), 6u);
}

TEST_F(BlockTest, faults_can_be_bound_to_a_place_and_tear_a_write) {
  const std::string file = make_file("disk", std::string(4096, 'a'));
  auto node = std::make_shared<FaultNode>();
  ASSERT_TRUE(node->connect(open_file(file), pass_through_permissions(true)));
  node->add({.kinds = kFaultWrite, .offset = 1024, .transfer = 512});
  EXPECT_EQ(write(*node, 0, std::string(1024, 'b')), 0);
  EXPECT_EQ(write(*node, 512, std::string(1024, 'c')), -EIO);
  EXPECT_EQ(content_of(file).substr(0, 1536),
            std::string(512, 'b') + std::string(512, 'c') + std::string(512, 'a'));
}

TEST_F(BlockTest, fault_rules_come_from_options) {
  const NodePtr node =
      open_options({{"driver", "blkdebug"},
                    {"image", {{"driver", "null-co"}}},
                    {"inject-error", {{{"event", "read_aio"}, {"errno", 5}, {"sector", 3}}}}});
  ASSERT_NE(node, nullptr);
  char bytes[512];
  EXPECT_EQ(context.run_until(read_bytes(*node, 1024, bytes, 512)), 0);
  EXPECT_EQ(context.run_until(read_bytes(*node, 1536, bytes, 512)), -EIO);
}

std::string text(const std::vector<std::byte>& bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST_F(BlockTest, a_power_cut_keeps_what_was_flushed_and_any_part_of_the_rest) {
  const std::string file = make_file("disk", std::string(2048, '.'));
  auto node = std::make_shared<WriteLogNode>();
  ASSERT_TRUE(node->connect(open_file(file), pass_through_permissions(true)));
  const std::vector<std::byte> before(2048, std::byte{'.'});
  write(*node, 0, std::string(512, 'a'));
  flush(*node);
  write(*node, 512, std::string(512, 'b'));
  write(*node, 1024, std::string(512, 'c'));
  const auto records = node->records();
  ASSERT_EQ(records.size(), 5u);
  EXPECT_EQ(text(image_after_power_cut(before, records, 5, nullptr)), content_of(file));
  EXPECT_EQ(text(image_after_power_cut(before, records, 0, nullptr)), std::string(2048, '.'));
  std::mt19937 random(3);
  bool without_b_with_c = false;
  for (int i = 0; i < 50; ++i) {
    const std::string image = text(image_after_power_cut(before, records, 5, &random));
    EXPECT_EQ(image[0], 'a');
    without_b_with_c |= image[512] == '.' && image[1024] == 'c';
  }
  EXPECT_TRUE(without_b_with_c);
}

TEST(TokenBucketTest, bursts_pass_and_the_average_holds) {
  TokenBucket bucket;
  bucket.set_limits({.rate = 100, .burst_rate = 1000, .burst_seconds = 2});
  constexpr uint64_t kSecond = 1'000'000'000;
  uint64_t now = kSecond, started = 0;
  double after_three_seconds = 0;
  while (now < 101 * kSecond) {
    const uint64_t wait = bucket.wait(now);
    now += wait;
    bucket.add(1);
    ++started;
    if (now < 4 * kSecond) after_three_seconds = static_cast<double>(started);
  }
  EXPECT_NEAR(static_cast<double>(started), 100 * 100 + 1800, 300);
  EXPECT_GT(after_three_seconds, 1500);
}

TEST_F(BlockTest, power_cut_image_grows_by_zeros_but_not_by_discards) {
  auto node = std::make_shared<WriteLogNode>();
  ASSERT_TRUE(node->connect(open_file(make_file("disk", std::string(1024, '.'))),
                            {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionsAll}));
  EXPECT_EQ(discard(*node, 512, 4096), 0);
  EXPECT_EQ(image_after_power_cut(std::vector<std::byte>(1024), node->records(), 1, nullptr).size(), 1024u);
  EXPECT_EQ(zero(*node, 1024, 512, true), 0);
  EXPECT_EQ(image_after_power_cut(std::vector<std::byte>(1024), node->records(), 2, nullptr).size(), 1536u);
}

TEST_F(BlockTest, throttle_limits_are_checked) {
  EXPECT_TRUE(throttle_limits({{"iops-total", 10}, {"iops-total-max", 20}}, "x"));
  EXPECT_FALSE(throttle_limits({{"iops-total", 10}, {"iops-read", 20}}, "x"));
  EXPECT_FALSE(throttle_limits({{"bps-read", 10}, {"bps-read-max", 5}}, "x"));
  EXPECT_FALSE(throttle_limits({{"bps-read-max", 5}}, "x"));
  EXPECT_FALSE(throttle_limits({{"bps-red", 5}}, "x"));
}

TEST_F(BlockTest, throttled_requests_wait_their_turn_and_can_be_cancelled) {
  const NodePtr node = open_options({{"driver", "throttle"},
                                     {"throttle-group", "test-group"},
                                     {"limits", {{"iops-total", 10}}},
                                     {"file", {{"driver", "null-co"}}}});
  ASSERT_NE(node, nullptr);
  const auto cancel_soon = [](NodePtr throttled) -> Task<int> {
    TaskGroup group(100);
    const auto one = [](NodePtr disk) -> Task<int> {
      char bytes[512];
      co_return co_await read_bytes(*disk, 0, bytes, sizeof bytes);
    };
    for (int i = 0; i < 50; ++i) co_await group.start(one(throttled));
    throttled->cancel();
    co_return co_await group.wait();
  };
  EXPECT_EQ(context.run_until(cancel_soon(node)), -ECANCELED);
}

}  // namespace
}  // namespace ostler::block
