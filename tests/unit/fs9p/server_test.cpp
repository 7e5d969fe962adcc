// Sessions: what is agreed on, and what a guest may have at a time.
#include "fs9p/server.h"

#include <gtest/gtest.h>

#include <fstream>

#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Bytes;
using test::Client;
using test::kNoFid;
using test::kRoot;

class ServerTest : public ::testing::Test {
 protected:
  ostler::test::TempFolder folder;
  std::shared_ptr<Share> share = test::open_share(folder.path());
  Client client{share};
};

TEST_F(ServerTest, agrees_on_the_protocol_and_the_smaller_message) {
  const auto small = client.call(Type::kVersion, 8192u, "9P2000.L");
  EXPECT_EQ(small.get<uint32_t>(0), 8192u);
  EXPECT_EQ(small.text(6, 8), "9P2000.L");
  EXPECT_EQ(client.call(Type::kVersion, 1u << 30, "9P2000.L").get<uint32_t>(0), kMostMessage);
}

TEST_F(ServerTest, other_protocols_are_unknown) {
  const auto answer = client.call(Type::kVersion, 8192u, "9P2000.u");
  EXPECT_EQ(answer.text(6, answer.get<uint16_t>(4)), "unknown");
  EXPECT_EQ(client.call(Type::kAttach, kRoot, kNoFid, "root", "", kNoUser).error, EPROTO);
}

TEST_F(ServerTest, messages_too_small_for_replies_are_refused) {
  EXPECT_EQ(client.call(Type::kVersion, kLeastMessage - 1, "9P2000.L").error, EINVAL);
}

TEST_F(ServerTest, nothing_is_served_before_the_version) {
  EXPECT_EQ(client.call(Type::kAttach, kRoot, kNoFid, "root", "", kNoUser).error, EPROTO);
}

TEST_F(ServerTest, a_new_version_forgets_all_fids) {
  client.mount();
  EXPECT_TRUE(client.server.mounted());
  client.call(Type::kVersion, 8192u, "9P2000.L");
  EXPECT_FALSE(client.server.mounted());
  EXPECT_EQ(share->fids(), 0u);
  EXPECT_EQ(client.attributes(kRoot).error, EBADF);
}

TEST_F(ServerTest, a_message_longer_than_agreed_is_refused) {
  client.call(Type::kVersion, 8192u, "9P2000.L");
  client.call(Type::kAttach, kRoot, kNoFid, "root", "", kNoUser);
  EXPECT_EQ(client.write(kRoot, 0, std::string(9000, 'x')).error, EMSGSIZE);
}

TEST_F(ServerTest, a_malformed_message_is_answered_with_its_tag) {
  client.mount();
  const Bytes reply = client.server.answer(test::message(Type::kClunk, 0x1234, uint8_t{1}), kMostMessage);
  EXPECT_EQ(test::parse(reply).error, EINVAL);
  EXPECT_EQ(test::parse(reply).tag, 0x1234);
}

TEST_F(ServerTest, a_reply_without_room_is_an_error_that_has_it) {
  client.mount();
  const Bytes reply =
      client.server.answer(test::message(Type::kGetattr, 1, kRoot, uint64_t{0x7ff}), kErrorBytes);
  EXPECT_EQ(reply.size(), kErrorBytes);
  EXPECT_EQ(test::parse(reply).error, EMSGSIZE);
}

TEST_F(ServerTest, fids_are_limited) {
  client.mount();
  uint32_t fid = 1;
  while (client.walk(fid, {}).error == 0 && fid < 2 * Share::kMostFids) ++fid;
  EXPECT_EQ(client.walk(fid, {}).error, EMFILE);
  EXPECT_LE(share->fids(), Share::kMostFids);
  client.clunk(1);
  EXPECT_EQ(client.walk(fid, {}).error, 0);
}

TEST_F(ServerTest, fids_of_all_shares_are_limited_together) {
  const auto other_share = test::open_share(folder.path());
  Client other{other_share};
  client.mount();
  uint32_t fid = 1;
  while (client.walk(fid, {}).error == 0 && fid < 2 * Share::kMostFids) ++fid;
  other.call(Type::kVersion, 8192u, "9P2000.L");
  EXPECT_EQ(other.call(Type::kAttach, kRoot, kNoFid, "root", "", kNoUser).error, EMFILE);
  EXPECT_EQ(other_share->fids(), 0u);
  client.clunk(1);
  EXPECT_EQ(other.call(Type::kAttach, kRoot, kNoFid, "root", "", kNoUser).error, 0);
  EXPECT_EQ(other_share->fids(), 1u);
}

TEST_F(ServerTest, a_taken_fid_is_not_given_again) {
  client.mount();
  EXPECT_EQ(client.walk(1, {}).error, 0);
  EXPECT_EQ(client.walk(1, {}).error, EBADF);
  EXPECT_EQ(client.call(Type::kAttach, kRoot, kNoFid, "root", "", kNoUser).error, EBADF);
  EXPECT_EQ(share->fids(), 2u);
}

TEST_F(ServerTest, other_trees_and_authentication_do_not_exist) {
  client.call(Type::kVersion, 8192u, "9P2000.L");
  EXPECT_EQ(client.call(Type::kAttach, kRoot, kNoFid, "root", "/etc", kNoUser).error, ENOENT);
  EXPECT_EQ(client.call(Type::kAuth, 3u, "root", "", kNoUser).error, EOPNOTSUPP);
}

TEST(Share, names_what_is_wrong_with_the_folder) {
  ostler::test::TempFolder folder;
  const auto missing = Share::open({.path = folder / "none"});
  ASSERT_FALSE(missing.has_value());
  EXPECT_NE(missing.error().message().find("none"), std::string::npos);
  std::ofstream(folder / "file") << "x";
  const auto file = Share::open({.path = folder / "file"});
  ASSERT_FALSE(file.has_value());
  EXPECT_NE(file.error().message().find("not a folder"), std::string::npos);
}

}  // namespace
}  // namespace ostler::fs9p
