// A guest never gets out of its folder, whatever names, links and moves there are.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Answer;
using test::Client;
using test::kRoot;

// Beside the share lies a file that no guest may see.
class EscapeTest : public ::testing::Test {
 protected:
  EscapeTest() { client.mount(); }
  std::shared_ptr<Share> make() {
    std::filesystem::create_directories(outer / "share/inner/deep");
    std::ofstream(outer / "secret") << "secret";
    return test::open_share(outer / "share");
  }
  uint64_t inode(const std::string& name) {
    struct stat info {};
    EXPECT_EQ(::stat((outer / name).c_str(), &info), 0) << name;
    return info.st_ino;
  }
  // Of the last step of a walk that went all the way.
  static uint64_t last_path(const Answer& walked) {
    return walked.get<uint64_t>(2 + 13 * (walked.get<uint16_t>(0) - 1u) + 5);
  }

  ostler::test::TempFolder outer;
  std::shared_ptr<Share> share = make();
  Client client{share};
};

TEST_F(EscapeTest, the_root_is_above_itself) {
  const Answer walked = client.walk(1, {"..", "..", ".."});
  EXPECT_EQ(walked.get<uint16_t>(0), 3);
  EXPECT_EQ(last_path(walked), inode("share"));
  EXPECT_EQ(client.walk(2, {"..", "secret"}).get<uint16_t>(0), 1);
}

TEST_F(EscapeTest, two_dots_lead_up_within_the_share) {
  EXPECT_EQ(last_path(client.walk(1, {"inner", "deep", ".."})), inode("share/inner"));
  EXPECT_EQ(last_path(client.walk(2, {"inner", "..", ".."})), inode("share"));
}

TEST_F(EscapeTest, names_are_single_names) {
  for (const char* name : {"../secret", "/etc", "inner/deep", ".", "inner/"})
    EXPECT_EQ(client.walk(1, {name}).error, EINVAL) << name;
  EXPECT_EQ(client.walk(1, {""}).error, ENOENT);
  EXPECT_EQ(client.walk(1, {std::string("inner\0x", 7)}).error, EINVAL);
  EXPECT_EQ(client.walk(1, {std::string(256, 'x')}).error, ENAMETOOLONG);
  for (const char* name : {"../new", "..", "/tmp/new", "."}) {
    client.walk(2, {});
    EXPECT_EQ(client.call(Type::kLcreate, 2u, name, 1u, 0600u, kNoUser).error, EINVAL) << name;
    EXPECT_EQ(client.call(Type::kMkdir, kRoot, name, 0700u, kNoUser).error, EINVAL) << name;
    EXPECT_EQ(client.call(Type::kSymlink, kRoot, name, "x", kNoUser).error, EINVAL) << name;
    EXPECT_EQ(client.call(Type::kMknod, kRoot, name, uint32_t{S_IFIFO}, 0u, 0u, kNoUser).error, EINVAL)
        << name;
    EXPECT_EQ(client.call(Type::kRenameat, kRoot, "inner", kRoot, name).error, EINVAL) << name;
    EXPECT_EQ(client.call(Type::kRenameat, kRoot, name, kRoot, "x").error, EINVAL) << name;
    EXPECT_EQ(client.call(Type::kUnlinkat, kRoot, name, 0u).error, EINVAL) << name;
    EXPECT_EQ(client.call(Type::kLink, kRoot, kRoot, name).error, EINVAL) << name;
  }
}

TEST_F(EscapeTest, links_out_of_the_share_lead_nowhere) {
  std::filesystem::create_symlink("../secret", outer / "share/file");
  std::filesystem::create_directory_symlink("..", outer / "share/folder");
  EXPECT_EQ(client.walk(1, {"folder", "secret"}).get<uint16_t>(0), 1) << "as far as the link itself";
  EXPECT_EQ(client.walk(2, {"file"}).error, 0);
  EXPECT_EQ(client.open(2).error, ELOOP);
  client.walk(3, {});
  EXPECT_EQ(client.call(Type::kLcreate, 3u, "file", 1u, 0600u, kNoUser).error, ELOOP);
  client.walk(4, {"folder"});
  EXPECT_EQ(client.call(Type::kLcreate, 4u, "new", 1u, 0600u, kNoUser).error, ENOTDIR);
  EXPECT_EQ(client.call(Type::kUnlinkat, 4u, "secret", 0u).error, ENOTDIR);
  // What changes a file does not reach through a link either.
  EXPECT_NE(client
                .call(Type::kSetattr, 2u, set::kMode | set::kSize, 0777u, 0u, 0u, uint64_t{0}, uint64_t{0},
                      uint64_t{0}, uint64_t{0}, uint64_t{0})
                .error,
            0);
  EXPECT_EQ(std::filesystem::file_size(outer / "secret"), 6u);
}

TEST_F(EscapeTest, a_folder_that_was_moved_away_has_nothing_above_it) {
  client.walk(1, {"inner"});
  std::filesystem::rename(outer / "share/inner", outer / "moved");
  EXPECT_EQ(client.walk(2, {".."}, 1).error, ENOENT);
}

// The host's side swaps a folder for a link as fast as it can; nothing that the guest opens is the secret.
TEST_F(EscapeTest, a_race_of_folders_and_links_is_not_won) {
  std::filesystem::create_directory(outer / "share/a");
  std::ofstream(outer / "share/a/secret") << "harmless";
  std::filesystem::create_directory_symlink("..", outer / "share/b");
  std::atomic<bool> stop{false};
  std::thread swapper([&] {
    const std::string a = outer / "share/a", b = outer / "share/b";
    while (!stop) (void)::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
  });
  for (int i = 0; i < 5000; ++i) {
    const Answer walked = client.walk(1, {"a", "secret"});
    if (walked.error == 0 && walked.get<uint16_t>(0) == 2) {
      if (client.open(1).error == 0) {
        EXPECT_EQ(client.read(1).data(), "harmless");
      }
      client.clunk(1);
    }
  }
  stop = true;
  swapper.join();
}

}  // namespace
}  // namespace ostler::fs9p
