// The filter "throttle": what counts against which limit, and what waits. Limits of a byte a second make
// waits that no stall of the host shortens.
#include "block/filters/throttle.h"

#include <nlohmann/json.hpp>

#include "filter_fixture.h"

namespace ostler::block {
namespace {

using nlohmann::json;

constexpr uint64_t kSecond = 1'000'000'000, kLong = 1000 * kSecond;
constexpr size_t kBytes = 4096;

enum class Kind { kRead, kWrite, kWriteCompressed, kWriteZeroes, kDiscard };
constexpr Kind kKinds[] = {Kind::kRead, Kind::kWrite, Kind::kWriteCompressed, Kind::kWriteZeroes,
                           Kind::kDiscard};

class ThrottleTest : public test::FilterTest {
 protected:
  static json options(json limits) {
    return {{"driver", "throttle"},
            {"throttle-group", "throttle-test"},
            {"limits", std::move(limits)},
            {"file", {{"driver", "null-co"}}}};
  }
  static ThrottleGroup& group_of(const NodePtr& node) { return dynamic_cast<ThrottleNode&>(*node).group(); }
  // Whether a request must wait for long.
  static bool waits(ThrottleGroup& group, bool is_write) {
    return group.book(is_write, 1) > IoContext::now() + kLong;
  }
  static ThrottleLimits limits(json text) {
    auto parsed = throttle_limits(std::move(text), "limits");
    EXPECT_TRUE(parsed) << (parsed ? "" : parsed.error().message());
    return parsed ? *parsed : ThrottleLimits();
  }
  Task<int> request(Node& node, Kind kind) {
    switch (kind) {
      case Kind::kRead:
        return node.read(0, Buffers(&piece, 1));
      case Kind::kWrite:
        return node.write(0, Buffers(&piece, 1));
      case Kind::kWriteCompressed:
        return node.write_compressed(0, Buffers(&piece, 1));
      case Kind::kWriteZeroes:
        return node.write_zeroes(0, kBytes, {});
      case Kind::kDiscard:
        return node.discard(0, kBytes);
    }
    return node.flush();
  }
  std::string content = std::string(kBytes, 'x');
  const iovec piece{content.data(), content.size()};
};

TEST_F(ThrottleTest, every_request_for_bytes_counts) {
  for (const Kind kind : kKinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    NodePtr node = open_options(options({{"bps-total", 1}}));
    ASSERT_NE(node, nullptr);
    static_cast<void>(context.run_until(request(*node, kind)));
    EXPECT_TRUE(waits(group_of(node), false));
    close(node);
  }
}

TEST_F(ThrottleTest, reads_and_writes_have_limits_of_their_own) {
  for (const Kind kind : kKinds)
    for (const bool of_writes : {false, true}) {
      NodePtr node = open_options(options({{of_writes ? "bps-write" : "bps-read", 1}}));
      ASSERT_NE(node, nullptr);
      static_cast<void>(context.run_until(request(*node, kind)));
      EXPECT_EQ(waits(group_of(node), of_writes), (kind != Kind::kRead) == of_writes)
          << static_cast<int>(kind);
      EXPECT_FALSE(waits(group_of(node), !of_writes));
      close(node);
    }
}

TEST_F(ThrottleTest, requests_that_wait_are_cancelled_and_not_sent) {
  NodePtr node = open_options(options({{"bps-total", 1}}));
  ASSERT_NE(node, nullptr);
  group_of(node).book(false, 1 << 20);
  std::vector<Task<int>> requests;
  for (const Kind kind : kKinds) requests.push_back(request(*node, kind));
  EXPECT_EQ(context.run_until(test::run_and_cancel(node, std::move(requests))),
            std::vector<int>(std::size(kKinds), -ECANCELED));
  close(node);
}

TEST_F(ThrottleTest, cancel_reaches_what_lies_below) {
  json outer = options({{"bps-total", 0}}), inner = options({{"bps-total", 1}});
  outer["throttle-group"] = "throttle-test-outer";
  inner["node-name"] = "inner";
  outer["file"] = std::move(inner);
  NodePtr node = open_options(std::move(outer));
  ASSERT_NE(node, nullptr);
  group_of(opener.find("inner")).book(false, 1 << 20);
  std::vector<Task<int>> requests;
  requests.push_back(request(*node, Kind::kRead));
  EXPECT_EQ(context.run_until(test::run_and_cancel(node, std::move(requests))), std::vector<int>{-ECANCELED});
  close(node);
}

TEST_F(ThrottleTest, large_requests_count_as_several) {
  ThrottleGroup group;
  group.set_limits(limits({{"iops-total", 1}, {"iops-size", kBytes}}));
  group.book(false, 2000 * kBytes);
  EXPECT_TRUE(waits(group, true));
  ThrottleGroup once;
  once.set_limits(limits({{"iops-total", 1}}));
  once.book(false, 2000 * kBytes);
  EXPECT_FALSE(waits(once, true));
}

TEST_F(ThrottleTest, small_requests_count_as_one) {
  ThrottleGroup group;
  group.set_limits(limits({{"iops-total", 1}, {"iops-size", kBytes}}));
  for (int i = 0; i < 2000; ++i) group.book(false, 1);
  EXPECT_TRUE(waits(group, false));
}

// A limit that is lifted does not let later requests pass those that wait.
TEST_F(ThrottleTest, first_come_first_served_among_reads_and_among_writes) {
  ThrottleGroup group;
  group.set_limits(limits({{"bps-total", 1}}));
  group.book(false, 1 << 20);
  const uint64_t waiting = group.book(false, 1);
  group.set_limits({});
  EXPECT_GE(group.book(false, 1), waiting);
  EXPECT_FALSE(waits(group, true));
}

TEST_F(ThrottleTest, limits_that_contradict_are_refused) {
  for (const json& wrong :
       {json{{"iops-total", 1}, {"iops-write", 1}}, json{{"bps-total", 1}, {"bps-read", 1}},
        json{{"bps-total", 1}, {"bps-write", 1}}, json{{"iops-sise", 1}}})
    EXPECT_FALSE(throttle_limits(wrong, "limits")) << wrong;
  json unnamed = options({{"bps-total", 1}});
  unnamed.erase("throttle-group");
  EXPECT_NE(options_error(unnamed).find("option 'throttle-group' is missing"), std::string::npos);
}

TEST_F(ThrottleTest, a_group_that_nobody_made_is_not_found) {
  json other = options({});
  other.erase("limits");
  EXPECT_NE(options_error(other).find("throttle-group: there is no throttle group 'throttle-test'"),
            std::string::npos);
  const auto group = ThrottleGroup::get("throttle-test");
  EXPECT_EQ(options_error(other), "");
}

}  // namespace
}  // namespace ostler::block
