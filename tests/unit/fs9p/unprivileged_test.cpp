// A share that is served without privilege: owners that cannot be set.
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Client;
using test::kRoot;

constexpr uid_t kNobody = 65534;
constexpr uint32_t kGuestUser = 1000;

// This thread's process is nobody's until the end, when it was root's.
class Unprivileged : public ::testing::Test {
 protected:
  Unprivileged() {
    if (was_root_) {
      EXPECT_EQ(::chown(folder.path().c_str(), kNobody, kNobody), 0);
      become(kNobody);
    }
  }
  ~Unprivileged() override {
    if (was_root_) become(0);
  }
  static void become(uid_t user) {
    EXPECT_EQ(::seteuid(user), 0);
    // Who changes his user loses his own /proc/self/fd.
    ::prctl(PR_SET_DUMPABLE, 1);
  }
  std::unique_ptr<Client> mounted(Security security) {
    auto client = std::make_unique<Client>(test::open_share(folder.path(), security));
    client->mount(kGuestUser);
    return client;
  }
  bool empty() const { return std::filesystem::is_empty(folder.path()); }

  ostler::test::TempFolder folder;

 private:
  const bool was_root_ = ::geteuid() == 0;
};

TEST_F(Unprivileged, what_cannot_be_given_to_its_user_is_not_made_with_passthrough) {
  const auto mount = mounted(Security::kPassthrough);
  Client& client = *mount;
  client.walk(1, {});
  EXPECT_EQ(client.call(Type::kLcreate, 1u, "file", 1u, 0600u, kNoUser).error, EPERM);
  EXPECT_EQ(client.call(Type::kMkdir, kRoot, "folder", 0700u, kNoUser).error, EPERM);
  EXPECT_EQ(client.call(Type::kSymlink, kRoot, "link", "x", kNoUser).error, EPERM);
  EXPECT_EQ(client.call(Type::kMknod, kRoot, "pipe", uint32_t{S_IFIFO | 0600}, 0u, 0u, kNoUser).error, EPERM);
  EXPECT_TRUE(empty());
}

TEST_F(Unprivileged, what_cannot_be_given_to_its_user_is_ours_with_none) {
  const auto mount = mounted(Security::kNone);
  Client& client = *mount;
  client.walk(1, {});
  EXPECT_EQ(client.call(Type::kLcreate, 1u, "file", 1u, 0640u, kNoUser).error, 0);
  struct stat info {};
  ASSERT_EQ(::stat((folder / "file").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, ::geteuid());
  EXPECT_EQ(info.st_mode & 07777, 0640u);
}

// Such a program would run as us, whoever of the host starts it.
TEST_F(Unprivileged, no_program_gets_our_rights) {
  const auto mount = mounted(Security::kNone);
  Client& client = *mount;
  client.walk(1, {});
  EXPECT_EQ(client.call(Type::kLcreate, 1u, "file", 1u, 06755u, kNoUser).error, 0);
  const auto mode = [&] {
    struct stat info {};
    EXPECT_EQ(::stat((folder / "file").c_str(), &info), 0);
    return info.st_mode & 07777;
  };
  EXPECT_EQ(mode(), 0755u);
  EXPECT_EQ(client
                .call(Type::kSetattr, 1u, set::kMode, 06711u, 0u, 0u, uint64_t{0}, uint64_t{0}, uint64_t{0},
                      uint64_t{0}, uint64_t{0})
                .error,
            0);
  EXPECT_EQ(mode(), 0711u);
}

}  // namespace
}  // namespace ostler::fs9p
