// What a back end says by itself, and what is made of one that breaks the rules.
#include "devices/virtio/vhost_user/back_end_requests.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <vector>

namespace ostler::virtio::vhost_user {
namespace {

constexpr uint32_t kConfigChange = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
constexpr uint32_t kIotlb = 1;  // VHOST_USER_BACKEND_IOTLB_MSG

class BackEndRequestsTest : public testing::Test {
 protected:
  BackEndRequestsTest() { connect(); }
  void connect() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    back_end.reset(ends[0]);
    requests.emplace(Fd(ends[1]));
  }
  void send(const void* bytes, size_t size) {
    ASSERT_EQ(::send(back_end.get(), bytes, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  void say(uint32_t request, uint32_t flags = kVersion, size_t payload = 0) {
    std::vector<std::byte> bytes(sizeof(Header) + payload);
    const Header header{request, flags, static_cast<uint32_t>(payload)};
    std::memcpy(bytes.data(), &header, sizeof header);
    send(bytes.data(), bytes.size());
  }
  // The value of the next answer; none: there is no answer.
  std::optional<uint64_t> answer(uint32_t request) {
    struct [[gnu::packed]] {
      Header header;
      uint64_t value;
    } reply{};
    if (::recv(back_end.get(), &reply, sizeof reply, MSG_DONTWAIT) != static_cast<ssize_t>(sizeof reply))
      return std::nullopt;
    EXPECT_EQ(reply.header.request, request);
    EXPECT_EQ(reply.header.flags, kVersion | kReply);
    EXPECT_EQ(reply.header.size, sizeof reply.value);
    return uint64_t{reply.value};
  }
  Fd back_end;
  std::optional<BackEndRequests> requests;
};

TEST_F(BackEndRequestsTest, a_change_is_told_once) {
  say(kConfigChange);
  EXPECT_TRUE(requests->serve());
  EXPECT_TRUE(requests->take_config_change());
  EXPECT_FALSE(requests->take_config_change());
  EXPECT_FALSE(answer(kConfigChange)) << "none was asked for";
}

TEST_F(BackEndRequestsTest, who_wants_an_answer_gets_one) {
  say(kConfigChange, kVersion | kNeedReply);
  say(kIotlb, kVersion | kNeedReply, 32);
  say(4711, kVersion | kNeedReply);
  EXPECT_TRUE(requests->serve());
  EXPECT_EQ(answer(kConfigChange), 0u);
  EXPECT_EQ(answer(kIotlb), 1u) << "not understood";
  EXPECT_EQ(answer(4711), 1u);
}

TEST_F(BackEndRequestsTest, unknown_requests_change_nothing) {
  say(kIotlb, kVersion, 256);
  EXPECT_TRUE(requests->serve());
  EXPECT_FALSE(requests->take_config_change());
  EXPECT_TRUE(requests->open());
}

TEST_F(BackEndRequestsTest, a_message_may_come_in_pieces) {
  const Header header{kConfigChange, kVersion, 0};
  for (size_t i = 0; i < sizeof header; ++i) {
    EXPECT_FALSE(requests->take_config_change());
    send(reinterpret_cast<const char*>(&header) + i, 1);
    EXPECT_TRUE(requests->serve());
  }
  EXPECT_TRUE(requests->take_config_change());
}

TEST_F(BackEndRequestsTest, few_are_served_at_a_time) {
  for (int i = 0; i < 17; ++i) say(kConfigChange, kVersion | kNeedReply);
  EXPECT_TRUE(requests->serve());
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(answer(kConfigChange));
  EXPECT_FALSE(answer(kConfigChange));
  EXPECT_TRUE(requests->serve());
  EXPECT_TRUE(answer(kConfigChange));
}

TEST_F(BackEndRequestsTest, odd_messages_end_it) {
  struct Odd {
    uint32_t flags;
    size_t payload;
  };
  for (const Odd& odd : {Odd{0, 0}, Odd{2, 0}, Odd{kVersion | kReply, 0}, Odd{kVersion, 257}}) {
    connect();
    say(kConfigChange, odd.flags, odd.payload);
    EXPECT_FALSE(requests->serve());
    EXPECT_FALSE(requests->open());
    EXPECT_FALSE(requests->config_changed());
  }
}

TEST_F(BackEndRequestsTest, a_back_end_may_close_it) {
  say(kConfigChange);
  back_end.reset();
  EXPECT_TRUE(requests->serve());
  EXPECT_TRUE(requests->take_config_change());
  EXPECT_FALSE(requests->open());
}

TEST_F(BackEndRequestsTest, one_that_reads_no_answers_is_not_waited_for) {
  bool served = true;
  while (served) {
    say(kIotlb, kVersion | kNeedReply);
    served = requests->serve().has_value();
  }
  EXPECT_FALSE(requests->open());
}

TEST_F(BackEndRequestsTest, descriptors_are_dropped) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC | O_NONBLOCK), 0);
  const Fd reader(pipe[0]);
  Fd writer(pipe[1]);
  Header header{kConfigChange, kVersion, 0};
  iovec piece{&header, sizeof header};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  const int sent = writer.get();
  std::memcpy(CMSG_DATA(rights), &sent, sizeof sent);
  ASSERT_GT(::sendmsg(back_end.get(), &message, 0), 0);
  writer.reset();
  EXPECT_TRUE(requests->serve());
  EXPECT_TRUE(requests->take_config_change());
  char byte = 0;
  EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "nobody has the other end any more";
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
