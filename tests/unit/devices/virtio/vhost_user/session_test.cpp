// What is said on the socket of a back end, and what is made of one that breaks the rules.
#include "devices/virtio/vhost_user/user_session.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "devices/virtio/features.h"
#include "devices/virtio/vhost_user/address.h"
#include "vhost_user/fake_back_end.h"

namespace ostler::virtio::vhost_user {
namespace {

using enum Request;
using test::FakeBackEnd;
using test::Sin;

constexpr std::chrono::milliseconds kShort{200};

struct Case {
  Request request;
  Sin sin;
};

Result<std::unique_ptr<UserSession>> open(FakeBackEnd& fake, std::chrono::milliseconds patience = kShort) {
  TRY_ASSIGN(Fd socket, connect_to({.path = fake.path()}));
  return UserSession::open(std::move(socket), patience);
}

std::shared_ptr<memory::RamBlock> block() {
  return *memory::RamBlock::create(
      {.name = "test", .size = 1 << 16, .backing = memory::Backing::kMemfd, .share = true});
}

MemoryTable::Entry entry(const std::shared_ptr<memory::RamBlock>& ram) {
  return {{.guest_address = 0x1000,
           .size = ram->size(),
           .user_address = reinterpret_cast<uint64_t>(ram->host()),
           .mmap_offset = 0},
          ram};
}

// Every operation, in turn, until one fails.
Result<void> use(FakeBackEnd& fake) {
  TRY_ASSIGN(const auto session, open(fake));
  const auto ram = block();
  const auto inner = [&]() -> Result<void> {
    TRY(session->set_features(feature(VIRTIO_F_VERSION_1)));
    TRY(session->set_memory({}, entry(ram)));
    const auto base = reinterpret_cast<uint64_t>(ram->host());
    const Fd pair[2] = {Fd(::dup(0)), Fd(::dup(0))};
    TRY(session->start_ring(1, {64, base, base + 1024, base + 2048}, pair[0].get(), pair[1].get(), true));
    if (session->has_config()) {
      TRY(session->set_config(0, {}));
      TRY_ASSIGN(const auto config, session->config(8));
      EXPECT_EQ(config.size(), 8u);
    }
    return session->stop_ring(1);
  };
  auto done = inner();
  EXPECT_EQ(session->alive(), done.has_value()) << "an error ends the session";
  return done;
}

TEST(VhostUserSession, says_all_that_a_ring_needs_in_order) {
  FakeBackEnd fake({});
  ASSERT_TRUE(use(fake));
  const std::vector<Request> expected = {VHOST_USER_GET_FEATURES,
                                         VHOST_USER_GET_PROTOCOL_FEATURES,
                                         VHOST_USER_SET_PROTOCOL_FEATURES,
                                         VHOST_USER_GET_QUEUE_NUM,
                                         VHOST_USER_SET_OWNER,
                                         VHOST_USER_SET_FEATURES,
                                         VHOST_USER_SET_MEM_TABLE,
                                         VHOST_USER_SET_VRING_NUM,
                                         VHOST_USER_SET_VRING_BASE,
                                         VHOST_USER_SET_VRING_ADDR,
                                         VHOST_USER_SET_VRING_CALL,
                                         VHOST_USER_SET_VRING_KICK,
                                         VHOST_USER_SET_VRING_ENABLE,
                                         VHOST_USER_SET_CONFIG,
                                         VHOST_USER_GET_CONFIG,
                                         VHOST_USER_SET_VRING_ENABLE,
                                         VHOST_USER_GET_VRING_BASE};
  EXPECT_EQ(fake.requests(), expected);
}

TEST(VhostUserSession, speaks_to_a_back_end_without_extensions) {
  FakeBackEnd fake({.features = feature(VIRTIO_F_VERSION_1)});
  ASSERT_TRUE(use(fake));
  for (const Request each : fake.requests())
    EXPECT_TRUE(each != VHOST_USER_GET_PROTOCOL_FEATURES && each != VHOST_USER_SET_VRING_ENABLE &&
                each != VHOST_USER_GET_QUEUE_NUM && each != VHOST_USER_GET_CONFIG);
  EXPECT_EQ(fake.set_features(), feature(VIRTIO_F_VERSION_1));
}

TEST(VhostUserSession, asks_for_protocol_features_that_both_know) {
  FakeBackEnd fake({.protocol = ~uint64_t{0}});
  const auto session = open(fake);
  ASSERT_TRUE(session) << session.error().message();
  EXPECT_TRUE((*session)->has_config());
  EXPECT_EQ((*session)->queues(), 8u);
}

constexpr uint64_t kSpeaks = 1u << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1u << VHOST_USER_PROTOCOL_F_CONFIG |
                             1u << VHOST_USER_PROTOCOL_F_BACKEND_REQ;

TEST(VhostUserSession, gives_a_back_end_a_way_to_speak_about_its_configuration) {
  FakeBackEnd fake({.protocol = kSpeaks});
  const auto session = open(fake);
  ASSERT_TRUE(session) << session.error().message();
  EXPECT_GE((*session)->back_end_fd(), 0);
  FakeBackEnd without({.protocol = kSpeaks & ~(1u << VHOST_USER_PROTOCOL_F_CONFIG)});
  const auto other = open(without);
  ASSERT_TRUE(other);
  EXPECT_EQ((*other)->back_end_fd(), -1);
}

TEST(VhostUserSession, hears_a_back_end_that_speaks_before_it_answers) {
  FakeBackEnd fake({.protocol = kSpeaks, .sinful = VHOST_USER_GET_CONFIG, .sin = Sin::kSpeakFirst});
  const auto session = open(fake, Channel::kPatience);
  ASSERT_TRUE(session);
  bool told = false;
  (*session)->on_config_change([&] { told = true; });
  EXPECT_TRUE((*session)->config(8));
  EXPECT_TRUE(told);
  EXPECT_TRUE((*session)->take_config_change());
}

TEST(VhostUserSession, a_back_end_that_speaks_for_ever_has_no_more_time_than_others) {
  FakeBackEnd fake({.protocol = kSpeaks, .sinful = VHOST_USER_GET_CONFIG, .sin = Sin::kFlood});
  auto session = open(fake);
  ASSERT_TRUE(session);
  EXPECT_FALSE((*session)->config(8));
  EXPECT_FALSE((*session)->alive());
  session->reset();  // it speaks until then
}

TEST(VhostUserChannel, what_else_is_served_gives_no_more_time) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Channel channel{Fd(ends[0]), kShort};
  const Fd silent(ends[1]);
  const Fd busy(::eventfd(1, EFD_CLOEXEC));  // readable for ever
  unsigned served = 0;
  channel.serve_meanwhile(busy.get(), [&] {
    ++served;
    return Result<bool>(true);
  });
  EXPECT_FALSE(channel.receive(VHOST_USER_GET_FEATURES, sizeof(uint64_t)));
  EXPECT_NE(served, 0u);
  EXPECT_FALSE(channel.open());
}

TEST(VhostUserSession, odd_words_of_a_back_end_end_the_session) {
  FakeBackEnd fake({.protocol = kSpeaks});
  const auto session = open(fake);
  ASSERT_TRUE(session);
  fake.say(2, 0);
  EXPECT_FALSE((*session)->serve_back_end());
  EXPECT_FALSE((*session)->alive());
}

TEST(VhostUserSession, waits_for_the_new_memory_without_acknowledgements) {
  FakeBackEnd fake({.protocol = 0});
  ASSERT_TRUE(use(fake));
  const auto requests = fake.requests();
  const auto table = std::find(requests.begin(), requests.end(), VHOST_USER_SET_MEM_TABLE);
  ASSERT_NE(table + 1, requests.end());
  EXPECT_EQ(table[1], VHOST_USER_GET_FEATURES);
}

TEST(VhostUserSession, refuses_a_back_end_of_legacy_virtio) {
  FakeBackEnd fake({.features = feature(VHOST_USER_F_PROTOCOL_FEATURES)});
  const auto session = open(fake);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().kind(), ErrorKind::kUnsupported);
}

TEST(VhostUserSession, refuses_memory_in_too_many_pieces) {
  FakeBackEnd fake({});
  const auto session = open(fake);
  ASSERT_TRUE(session);
  std::vector<memory::FlatRange> ranges;
  for (uint64_t i = 0; i < kMostRegions; ++i) {
    memory::FlatRange& range = ranges.emplace_back();
    range.first = GuestPhys{i << 20};
    range.last = GuestPhys{(i << 20) + 0xffff};
    range.ram = block();
  }
  const MemoryTable table{memory::FlatView(std::move(ranges)), MemoryTable::Whose::kShared};
  EXPECT_FALSE((*session)->set_memory(table, entry(block())));
  EXPECT_FALSE((*session)->alive());
}

class SinfulBackEnd : public testing::TestWithParam<Case> {};

TEST_P(SinfulBackEnd, costs_an_error_and_some_time) {
  FakeBackEnd fake({.sinful = GetParam().request, .sin = GetParam().sin});
  const auto done = use(fake);
  ASSERT_FALSE(done);
  EXPECT_FALSE(done.error().message().empty());
}

std::vector<Case> sins() {
  std::vector<Case> all;
  for (const Request request :
       {VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES, VHOST_USER_GET_QUEUE_NUM,
        VHOST_USER_SET_OWNER, VHOST_USER_SET_FEATURES, VHOST_USER_SET_MEM_TABLE, VHOST_USER_SET_VRING_NUM,
        VHOST_USER_SET_VRING_BASE, VHOST_USER_SET_VRING_ADDR, VHOST_USER_SET_VRING_CALL,
        VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_ENABLE, VHOST_USER_GET_CONFIG, VHOST_USER_SET_CONFIG,
        VHOST_USER_GET_VRING_BASE}) {
    for (const Sin sin : {Sin::kClose, Sin::kSilence, Sin::kWrongType, Sin::kNoReplyFlag, Sin::kWrongVersion,
                          Sin::kShortReply, Sin::kHugeReply, Sin::kHalfReply})
      all.push_back({request, sin});
    const bool acknowledged = request != VHOST_USER_GET_FEATURES && request != VHOST_USER_GET_CONFIG &&
                              request != VHOST_USER_GET_PROTOCOL_FEATURES &&
                              request != VHOST_USER_GET_QUEUE_NUM && request != VHOST_USER_GET_VRING_BASE;
    if (acknowledged) all.push_back({request, Sin::kRefuse});
  }
  // Nothing is answered here, but the connection can end.
  all.push_back({VHOST_USER_SET_PROTOCOL_FEATURES, Sin::kClose});
  all.push_back({VHOST_USER_GET_VRING_BASE, Sin::kOtherIndex});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Each, SinfulBackEnd, testing::ValuesIn(sins()), [](const auto& each) {
  return "request_" + std::to_string(static_cast<uint32_t>(each.param.request)) + "_sin_" +
         std::to_string(static_cast<int>(each.param.sin));
});

TEST(VhostUserAddress, names_the_path_where_nobody_listens) {
  const auto socket = connect_to({.path = "/nonexistent/socket"});
  ASSERT_FALSE(socket);
  EXPECT_NE(socket.error().message().find("/nonexistent/socket"), std::string::npos);
  EXPECT_FALSE(connect_to({.path = std::string(200, 'x')}));
  EXPECT_FALSE(connect_to({.path = ""}));
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
