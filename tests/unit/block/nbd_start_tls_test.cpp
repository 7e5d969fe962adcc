// A client's negotiation up to TLS, with every answer that a server may give.
#include "block/nbd/start_tls.h"

#include <gtest/gtest.h>

#include "block/nbd/protocol.h"

namespace ostler::block::nbd {
namespace {

std::string greeting(uint16_t flags = kFixedNewstyle | kNoZeroes, uint64_t init = kInitMagic,
                     uint64_t option = kOptionMagic) {
  std::string bytes;
  append_be(bytes, init);
  append_be(bytes, option);
  append_be(bytes, flags);
  return bytes;
}

std::string reply(OptionReply type, uint32_t length = 0, Option option = Option::kStartTls,
                  uint64_t magic = kOptionReplyMagic) {
  std::string bytes;
  append_be(bytes, magic);
  append_be(bytes, static_cast<uint32_t>(option));
  append_be(bytes, static_cast<uint32_t>(type));
  append_be(bytes, length);
  return bytes;
}

// Why the last of `messages` is refused; "" if it is not.
std::string refusal(std::initializer_list<std::string> messages) {
  StartTls start;
  for (const std::string& each : messages) {
    EXPECT_EQ(start.wanted(), each.size());
    auto taken = start.take(each);
    if (!taken) return taken.error().message();
  }
  return "";
}

TEST(NbdStartTls, AsksForTlsAndNothingElse) {
  StartTls start;
  ASSERT_EQ(start.wanted(), 18u);
  const auto answer = start.take(greeting());
  ASSERT_TRUE(answer);
  std::string expected;
  append_be(expected, uint32_t{kFixedNewstyle | kNoZeroes});
  append_be(expected, kOptionMagic);
  append_be(expected, static_cast<uint32_t>(Option::kStartTls));
  append_be(expected, uint32_t{0});
  EXPECT_EQ(*answer, expected);
  const auto last = start.take(reply(OptionReply::kAck));
  ASSERT_TRUE(last);
  EXPECT_EQ(*last, "");
  EXPECT_EQ(start.wanted(), 0u);
  EXPECT_EQ(start.greeting(), greeting());
}

TEST(NbdStartTls, TakesUpOnlyFlagsThatTheServerHas) {
  StartTls start;
  const auto answer = start.take(greeting(kFixedNewstyle | 0x100));
  ASSERT_TRUE(answer);
  EXPECT_EQ(load_be<uint32_t>(answer->data()), kFixedNewstyle);
}

TEST(NbdStartTls, ServersWithoutTlsAreToldFromThoseThatRefuse) {
  const std::string hello = greeting();
  for (const auto type : {OptionReply::kErrUnsupported, OptionReply::kErrPolicy})
    EXPECT_NE(refusal({hello, reply(type, 5)}).find("it has no TLS"), std::string::npos);
  EXPECT_NE(refusal({greeting(kNoZeroes)}).find("it has no TLS"), std::string::npos);
  EXPECT_EQ(refusal({hello, reply(OptionReply::kErrInvalid, 6), "go\n\x7fup"}), "it refuses TLS: go??up");
  EXPECT_EQ(refusal({hello, reply(OptionReply::kErrInvalid)}), "it refuses TLS");
}

TEST(NbdStartTls, WhatBreaksTheProtocolIsRefused) {
  const std::string hello = greeting();
  EXPECT_EQ(refusal({greeting(1, 5)}), "there is no NBD server");
  EXPECT_NE(refusal({greeting(1, kInitMagic, 5)}), "");
  for (const std::string& wrong :
       {reply(OptionReply::kAck, 1), reply(OptionReply::kServer),
        reply(OptionReply::kErrInvalid, kMostName + 1), reply(OptionReply::kAck, 0, Option::kGo),
        reply(OptionReply::kAck, 0, Option::kStartTls, 5)})
    EXPECT_EQ(refusal({hello, wrong}), "it breaks the NBD protocol");
}

}  // namespace
}  // namespace ostler::block::nbd
