#include <gtest/gtest.h>
#include <sys/xattr.h>

#include <filesystem>
#include <fstream>

#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Answer;
using test::Client;
using test::kRoot;

class XattrTest : public ::testing::Test {
 protected:
  XattrTest() {
    std::ofstream(folder / "file") << "x";
    client.mount();
  }
  // Sets one as a client does: a fid becomes the value, which is written and takes effect when it goes.
  int set(std::string_view name, std::string_view value, uint32_t flags = 0) {
    client.walk(9, {"file"});
    const Answer made = client.call(Type::kXattrcreate, 9u, name, uint64_t{value.size()}, flags);
    const Answer written = made.error == 0 && !value.empty() ? client.write(9, 0, value) : Answer{};
    const Answer ended = client.clunk(9);
    return made.error != 0 ? made.error : written.error != 0 ? written.error : ended.error;
  }
  Answer find(std::string_view name, uint32_t fid = 8) {
    client.walk(7, {"file"});
    const Answer answer = client.call(Type::kXattrwalk, 7u, fid, name);
    client.clunk(7);
    return answer;
  }
  std::string on_host(const char* name) {
    char value[64] = {};
    const ssize_t size = ::getxattr((folder / "file").c_str(), name, value, sizeof value);
    return size < 0 ? "none" : std::string(value, static_cast<size_t>(size));
  }

  ostler::test::TempFolder folder;
  std::shared_ptr<Share> share = test::open_share(folder.path());
  Client client{share};
};

TEST_F(XattrTest, a_value_is_set_when_its_fid_ends) {
  EXPECT_EQ(set("user.color", "green"), 0);
  EXPECT_EQ(on_host("user.color"), "green");
}

TEST_F(XattrTest, values_and_their_list_are_read) {
  ASSERT_EQ(::setxattr((folder / "file").c_str(), "user.one", "1st", 3, 0), 0);
  EXPECT_EQ(find("user.one").get<uint64_t>(0), 3u);
  EXPECT_EQ(client.read(8, 1).data(), "st");
  EXPECT_EQ(client.read(8, 99).data(), "");
  client.clunk(8);
  EXPECT_EQ(find("").error, 0);
  EXPECT_NE(client.read(8).data().find(std::string("user.one\0", 9)), std::string::npos);
  EXPECT_EQ(find("user.two", 5).error, ENODATA);
}

TEST_F(XattrTest, an_empty_replacement_removes) {
  ASSERT_EQ(set("user.one", "1"), 0);
  EXPECT_EQ(set("user.one", "", XATTR_REPLACE), 0);
  EXPECT_EQ(on_host("user.one"), "none");
  EXPECT_EQ(set("user.one", ""), 0);
  EXPECT_EQ(on_host("user.one"), "");
}

TEST_F(XattrTest, a_value_that_is_not_whole_is_not_set) {
  client.walk(9, {"file"});
  ASSERT_EQ(client.call(Type::kXattrcreate, 9u, "user.x", uint64_t{10}, 0u).error, 0);
  EXPECT_EQ(client.write(9, 0, "half").error, 0);
  EXPECT_EQ(client.write(9, 0, "again").error, ENOSPC);
  EXPECT_EQ(client.write(9, 4, "too much").error, ENOSPC);
  EXPECT_EQ(client.clunk(9).error, EIO);
  EXPECT_EQ(on_host("user.x"), "none");
}

TEST_F(XattrTest, values_that_wait_are_limited_together) {
  uint32_t fid = 100;
  const auto begin = [&](uint32_t number) {
    client.walk(number, {"file"});
    return client.call(Type::kXattrcreate, number, "user.x", uint64_t{65536}, 0u).error;
  };
  while (begin(fid) == 0 && fid < 1000) ++fid;
  EXPECT_EQ(fid - 100, Share::kMostXattrBytes / 65536);
  EXPECT_EQ(begin(fid + 1), ENOMEM);
  client.clunk(100);
  EXPECT_EQ(begin(fid + 2), 0);
}

TEST_F(XattrTest, odd_values_are_refused) {
  client.walk(9, {"file"});
  EXPECT_EQ(client.call(Type::kXattrcreate, 9u, "user.x", uint64_t{65537}, 0u).error, E2BIG);
  EXPECT_EQ(client.call(Type::kXattrcreate, 9u, "", uint64_t{1}, 0u).error, EINVAL);
  EXPECT_EQ(client.call(Type::kXattrcreate, 9u, std::string("user.\0", 6), uint64_t{1}, 0u).error, EINVAL);
  EXPECT_EQ(client.call(Type::kXattrcreate, 9u, "user.x", uint64_t{1}, 8u).error, EINVAL);
  client.open(9);
  EXPECT_EQ(client.call(Type::kXattrcreate, 9u, "user.x", uint64_t{1}, 0u).error, EBUSY);
}

TEST_F(XattrTest, links_have_none) {
  std::filesystem::create_symlink("file", folder / "link");
  client.walk(1, {"link"});
  EXPECT_EQ(client.call(Type::kXattrwalk, 1u, 2u, "user.x").error, EOPNOTSUPP);
  EXPECT_EQ(client.call(Type::kXattrcreate, 1u, "user.x", uint64_t{1}, 0u).error, EOPNOTSUPP);
  EXPECT_EQ(client.call(Type::kXattrwalk, 1u, 2u, "").get<uint64_t>(0), 0u);
}

}  // namespace
}  // namespace ostler::fs9p
