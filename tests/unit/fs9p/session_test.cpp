// What requests do to the folder, and what they tell of it.
#include "fs9p/session.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Answer;
using test::Client;
using test::kRoot;

constexpr uint32_t kReadOnly = 0, kWriteOnly = 1, kReadWrite = 2;
constexpr uint32_t kFile = 1, kOther = 2;  // fids

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() { client.mount(); }
  void put(const std::string& name, const std::string& text) { std::ofstream(folder / name) << text; }
  std::string get(const std::string& name) {
    std::ifstream file(folder / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  struct stat status(const std::string& name) {
    struct stat info {};
    EXPECT_EQ(::lstat((folder / name).c_str(), &info), 0) << name;
    return info;
  }
  bool exists(const std::string& name) {
    return std::filesystem::exists(std::filesystem::symlink_status(folder / name));
  }
  // A fid that stands on `name`, opened.
  uint32_t opened(const std::string& name, uint32_t flags, uint32_t fid = kFile) {
    EXPECT_EQ(client.walk(fid, {name}).error, 0) << name;
    EXPECT_EQ(client.open(fid, flags).error, 0) << name;
    return fid;
  }
  Answer create(uint32_t fid, const char* name, uint32_t flags, uint32_t mode) {
    client.walk(fid, {});
    return client.call(Type::kLcreate, fid, name, flags, mode, kNoUser);
  }
  // Names with their offsets, as one reply of `count` bytes tells them.
  std::vector<std::pair<std::string, uint64_t>> entries(uint32_t fid, uint64_t offset, uint32_t count) {
    std::vector<std::pair<std::string, uint64_t>> found;
    const Answer answer = client.call(Type::kReaddir, fid, offset, count);
    EXPECT_EQ(answer.error, 0);
    if (answer.error != 0) return found;
    const uint32_t bytes = answer.get<uint32_t>(0);
    EXPECT_LE(bytes, count);
    for (size_t at = 4; at < 4 + bytes;) {
      const auto size = answer.get<uint16_t>(at + 22);
      found.emplace_back(answer.text(at + 24, size), answer.get<uint64_t>(at + 13));
      at += 24u + size;
    }
    return found;
  }

  ostler::test::TempFolder folder;
  std::shared_ptr<Share> share = test::open_share(folder.path());
  Client client{share};
};

TEST_F(SessionTest, a_walk_goes_as_far_as_names_exist) {
  std::filesystem::create_directories(folder / "a/b");
  EXPECT_EQ(client.walk(1, {"a", "b"}).get<uint16_t>(0), 2);
  EXPECT_EQ(client.walk(2, {"a", "none", "b"}).get<uint16_t>(0), 1);
  EXPECT_EQ(client.attributes(2).error, EBADF) << "the fid exists only after the whole walk";
  EXPECT_EQ(client.walk(3, {"none"}).error, ENOENT);
}

TEST_F(SessionTest, a_walk_through_a_file_is_refused) {
  put("file", "");
  EXPECT_EQ(client.walk(1, {"file", "x"}).get<uint16_t>(0), 1);
  EXPECT_EQ(client.walk(1, {"x"}, kRoot).error, ENOENT);
}

TEST_F(SessionTest, a_file_is_read_at_any_offset) {
  put("file", "abcdef");
  opened("file", kReadOnly);
  EXPECT_EQ(client.read(kFile, 2, 3).data(), "cde");
  EXPECT_EQ(client.read(kFile, 6).data(), "");
  EXPECT_EQ(client.read(kFile, ~uint64_t{0}).error, EINVAL);
}

TEST_F(SessionTest, a_read_gives_what_fits_into_the_agreed_message) {
  put("file", std::string(100'000, 'x'));
  client.call(Type::kVersion, 8192u, "9P2000.L");
  client.call(Type::kAttach, kRoot, test::kNoFid, "root", "", kNoUser);
  opened("file", kReadOnly);
  EXPECT_EQ(client.read(kFile, 0, ~0u).data().size(), 8192u - 11);
}

TEST_F(SessionTest, reading_a_file_that_is_not_open_is_refused) {
  put("file", "x");
  client.walk(kFile, {"file"});
  EXPECT_EQ(client.read(kFile).error, EBADF);
  EXPECT_EQ(client.write(kFile, 0, "y").error, EBADF);
  EXPECT_EQ(client.call(Type::kFsync, kFile, 0u).error, EBADF);
}

TEST_F(SessionTest, a_file_is_opened_once) {
  put("file", "x");
  opened("file", kReadOnly);
  EXPECT_EQ(client.open(kFile).error, EBUSY);
}

TEST_F(SessionTest, a_created_file_has_the_mode_that_was_asked_for) {
  ::umask(077);
  EXPECT_EQ(create(kFile, "new", kWriteOnly, 0664).error, 0);
  ::umask(022);
  EXPECT_EQ(client.write(kFile, 3, "text").get<uint32_t>(0), 4u);
  EXPECT_EQ(client.call(Type::kFsync, kFile, 0u).error, 0);
  EXPECT_EQ(get("new"), std::string("\0\0\0text", 7));
  EXPECT_EQ(status("new").st_mode & 07777, 0664u);
}

TEST_F(SessionTest, creating_what_exists_opens_it_unless_it_must_be_new) {
  put("file", "abc");
  EXPECT_EQ(create(kFile, "file", kReadWrite, 0600).error, 0);
  EXPECT_EQ(client.read(kFile).data(), "abc");
  EXPECT_EQ(create(kOther, "file", kReadWrite | open_flags::kExclusive, 0600).error, EEXIST);
}

TEST_F(SessionTest, an_open_fid_neither_creates_nor_walks_away) {
  client.walk(kFile, {});
  client.open(kFile);
  EXPECT_EQ(client.call(Type::kLcreate, kFile, "new", kWriteOnly, 0600u, kNoUser).error, EBUSY);
  EXPECT_FALSE(exists("new"));
  EXPECT_EQ(client.walk(kFile, {}, kFile).error, EBUSY);
}

TEST_F(SessionTest, an_open_file_outlives_its_name) {
  put("file", "abc");
  opened("file", kReadWrite);
  EXPECT_EQ(client.call(Type::kUnlinkat, kRoot, "file", 0u).error, 0);
  EXPECT_EQ(client.read(kFile).data(), "abc");
  EXPECT_EQ(client.attributes(kFile).get<uint64_t>(8 + 13 + 12), 0u) << "links";
}

TEST_F(SessionTest, a_fid_stays_on_its_object_when_that_is_renamed) {
  put("file", "abc");
  client.walk(kFile, {"file"});
  EXPECT_EQ(client.call(Type::kRenameat, kRoot, "file", kRoot, "other").error, 0);
  put("file", "another");
  EXPECT_EQ(client.open(kFile).error, 0);
  EXPECT_EQ(client.read(kFile).data(), "abc");
}

TEST_F(SessionTest, folders_are_made_moved_and_removed) {
  EXPECT_EQ(client.call(Type::kMkdir, kRoot, "d", 01755u, kNoUser).error, 0);
  EXPECT_EQ(status("d").st_mode & 07777, 01755u);
  client.walk(1, {"d"});
  EXPECT_EQ(client.call(Type::kMkdir, 1u, "e", 0700u, kNoUser).error, 0);
  EXPECT_EQ(client.call(Type::kUnlinkat, kRoot, "d", kRemoveDirectory).error, ENOTEMPTY);
  EXPECT_EQ(client.call(Type::kRenameat, 1u, "e", kRoot, "f").error, 0);
  EXPECT_EQ(client.call(Type::kUnlinkat, kRoot, "d", 0u).error, EISDIR);
  EXPECT_EQ(client.call(Type::kUnlinkat, kRoot, "d", kRemoveDirectory).error, 0);
  EXPECT_TRUE(exists("f"));
  EXPECT_FALSE(exists("d"));
}

TEST_F(SessionTest, rename_and_remove_follow_a_fid) {
  put("file", "x");
  std::filesystem::create_directory(folder / "d");
  client.walk(kFile, {"file"});
  client.walk(kOther, {"d"});
  EXPECT_EQ(client.call(Type::kRename, kFile, kOther, "moved").error, 0);
  EXPECT_TRUE(exists("d/moved"));
  EXPECT_EQ(client.call(Type::kRemove, kFile).error, 0);
  EXPECT_FALSE(exists("d/moved"));
  EXPECT_EQ(client.attributes(kFile).error, EBADF);
}

TEST_F(SessionTest, remove_spares_what_has_taken_the_name) {
  put("file", "x");
  client.walk(kFile, {"file"});
  put("new", "y");
  std::filesystem::rename(folder / "new", folder / "file");
  EXPECT_EQ(client.call(Type::kRemove, kFile).error, ENOENT);
  EXPECT_TRUE(exists("file"));
  EXPECT_EQ(client.call(Type::kRemove, kRoot).error, EBUSY);
}

TEST_F(SessionTest, symbolic_links_are_told_and_not_followed) {
  EXPECT_EQ(client.call(Type::kSymlink, kRoot, "link", "/etc/passwd", kNoUser).error, 0);
  const Answer walked = client.walk(kFile, {"link"});
  EXPECT_EQ(walked.get<uint8_t>(2), Qid::kSymlink);
  const Answer target = client.call(Type::kReadlink, kFile);
  EXPECT_EQ(target.text(2, target.get<uint16_t>(0)), "/etc/passwd");
  EXPECT_EQ(client.open(kFile).error, ELOOP);
  EXPECT_EQ(client.call(Type::kReadlink, kRoot).error, EINVAL);
}

TEST_F(SessionTest, hard_links_share_a_file) {
  put("file", "x");
  client.walk(kFile, {"file"});
  EXPECT_EQ(client.call(Type::kLink, kRoot, kFile, "second").error, 0);
  EXPECT_EQ(status("second").st_ino, status("file").st_ino);
}

TEST_F(SessionTest, pipes_are_made_and_never_opened) {
  EXPECT_EQ(client.call(Type::kMknod, kRoot, "pipe", uint32_t{S_IFIFO | 0640}, 0u, 0u, kNoUser).error, 0);
  EXPECT_TRUE(S_ISFIFO(status("pipe").st_mode));
  client.walk(kFile, {"pipe"});
  EXPECT_EQ(client.open(kFile, kReadOnly).error, ENXIO);
  EXPECT_EQ(create(kOther, "pipe", kWriteOnly, 0600).error, ENXIO);
}

TEST_F(SessionTest, no_device_appears_on_the_host_without_passthrough) {
  EXPECT_EQ(client.call(Type::kMknod, kRoot, "disk", uint32_t{S_IFBLK | 0666}, 8u, 0u, kNoUser).error, EPERM);
  EXPECT_FALSE(exists("disk"));
  EXPECT_EQ(client.call(Type::kMknod, kRoot, "odd", uint32_t{S_IFDIR | 0666}, 0u, 0u, kNoUser).error, EINVAL);
}

TEST_F(SessionTest, attributes_are_told_and_changed) {
  put("file", "abcdef");
  client.walk(kFile, {"file"});
  const uint32_t valid = set::kMode | set::kSize | set::kMtime | set::kMtimeGiven;
  EXPECT_EQ(client
                .call(Type::kSetattr, kFile, valid, 0751u, 0u, 0u, uint64_t{4}, uint64_t{0}, uint64_t{0},
                      uint64_t{1'000'000'007}, uint64_t{5})
                .error,
            0);
  const auto info = status("file");
  EXPECT_EQ(info.st_mode & 07777, 0751u);
  EXPECT_EQ(info.st_size, 4);
  EXPECT_EQ(info.st_mtim.tv_sec, 1'000'000'007);
  EXPECT_EQ(info.st_mtim.tv_nsec, 5);
  EXPECT_EQ(client.mode(kFile), S_IFREG | 0751u);
  EXPECT_EQ(client.attributes(kFile).get<uint64_t>(8 + 13 + 12 + 16), 4u) << "size";
}

TEST_F(SessionTest, odd_attributes_are_refused) {
  put("file", "abcdef");
  client.walk(kFile, {"file"});
  const auto change = [&](uint32_t fid, uint32_t valid, uint64_t size, uint64_t nanoseconds) {
    return client
        .call(Type::kSetattr, fid, valid, 0u, 0u, 0u, size, uint64_t{0}, nanoseconds, uint64_t{0},
              nanoseconds)
        .error;
  };
  EXPECT_EQ(change(kFile, set::kSize, ~uint64_t{0}, 0), EFBIG);
  EXPECT_EQ(change(kRoot, set::kSize, 0, 0), EISDIR);
  EXPECT_EQ(change(kFile, set::kAtime | set::kAtimeGiven, 0, (1 << 30) - 1), EINVAL)
      << "UTIME_NOW in disguise";
  EXPECT_EQ(get("file"), "abcdef");
}

TEST_F(SessionTest, a_folder_is_read_in_pieces_of_any_size) {
  std::map<std::string, int> expected{{".", 1}, {"..", 1}};
  for (int i = 0; i < 500; ++i) {
    put("file-" + std::to_string(i), "");
    expected["file-" + std::to_string(i)] = 1;
  }
  client.walk(kFile, {});
  client.open(kFile);
  for (const uint32_t count : {64u, 333u, 4096u, 60'000u}) {
    std::map<std::string, int> found;
    uint64_t offset = 0;
    for (auto some = entries(kFile, offset, count); !some.empty(); some = entries(kFile, offset, count)) {
      for (const auto& [name, next] : some) ++found[name];
      offset = some.back().second;
    }
    EXPECT_EQ(found, expected) << count;
  }
  EXPECT_EQ(client.call(Type::kReaddir, kFile, uint64_t{0}, 10u).error, EINVAL) << "no entry fits";
}

TEST_F(SessionTest, the_folder_above_the_share_is_not_told) {
  client.walk(kFile, {});
  client.open(kFile);
  const Answer answer = client.call(Type::kReaddir, kFile, uint64_t{0}, 4096u);
  const uint64_t own = status(".").st_ino;
  EXPECT_EQ(answer.get<uint64_t>(4 + 5), own);
  EXPECT_EQ(answer.get<uint64_t>(4 + 25 + 5), own) << "both '.' and '..' are the root";
}

TEST_F(SessionTest, locks_are_seen_by_the_host) {
  put("file", "abcdef");
  opened("file", kReadWrite);
  const auto lock = [&](uint32_t fid, LockType type) {
    const Answer answer = client.call(Type::kLock, fid, static_cast<uint8_t>(type), 0u, uint64_t{1},
                                      uint64_t{2}, uint32_t{77}, "guest");
    EXPECT_EQ(answer.error, 0);
    return static_cast<LockStatus>(answer.get<uint8_t>(0));
  };
  EXPECT_EQ(lock(kFile, LockType::kWrite), LockStatus::kSuccess);
  opened("file", kReadWrite, kOther);
  EXPECT_EQ(lock(kOther, LockType::kRead), LockStatus::kBlocked);
  const Fd host(::open((folder / "file").c_str(), O_RDWR | O_CLOEXEC));
  struct flock seen {};
  seen.l_type = F_RDLCK;
  ASSERT_EQ(::fcntl(host.get(), F_OFD_GETLK, &seen), 0);
  EXPECT_EQ(seen.l_type, F_WRLCK);
  EXPECT_EQ(seen.l_start, 1);
  const Answer asked =
      client.call(Type::kGetlock, kOther, uint8_t{0}, uint64_t{0}, uint64_t{0}, uint32_t{5}, "g");
  EXPECT_EQ(asked.get<uint8_t>(0), static_cast<uint8_t>(LockType::kWrite));
  EXPECT_EQ(asked.get<uint64_t>(1), 1u);
  EXPECT_EQ(lock(kFile, LockType::kUnlock), LockStatus::kSuccess);
  EXPECT_EQ(lock(kOther, LockType::kRead), LockStatus::kSuccess);
}

TEST_F(SessionTest, locks_of_odd_ranges_are_refused) {
  put("file", "abcdef");
  opened("file", kReadWrite);
  const auto lock = [&](uint8_t type, uint64_t start, uint64_t length) {
    return client.call(Type::kLock, kFile, type, 0u, start, length, uint32_t{1}, "").error;
  };
  EXPECT_EQ(lock(3, 0, 0), EINVAL);
  EXPECT_EQ(lock(0, ~uint64_t{0}, 0), EINVAL);
  EXPECT_EQ(lock(0, 1, INT64_MAX), EINVAL);
  EXPECT_EQ(client.call(Type::kGetlock, kFile, uint8_t{2}, uint64_t{0}, uint64_t{0}, uint32_t{5}, "g").error,
            EINVAL);
}

TEST_F(SessionTest, the_file_system_is_told) {
  const Answer answer = client.call(Type::kStatfs, kRoot);
  EXPECT_EQ(answer.get<uint32_t>(0), 0x01021997u);
  EXPECT_GT(answer.get<uint64_t>(8), 0u) << "blocks";
  EXPECT_EQ(answer.body.size(), 4u + 4 + 6 * 8 + 8 + 4 - 8);
}

TEST_F(SessionTest, a_read_only_share_refuses_every_change) {
  put("file", "abc");
  Client reader(test::open_share(folder.path(), Security::kNone, true));
  reader.mount();
  reader.walk(kFile, {"file"});
  reader.walk(3, {});
  EXPECT_EQ(reader.open(kFile, kWriteOnly).error, EROFS);
  EXPECT_EQ(reader.open(kFile, open_flags::kTruncate).error, EROFS);
  EXPECT_EQ(reader.call(Type::kLcreate, 3u, "n", 1u, 0600u, kNoUser).error, EROFS);
  EXPECT_EQ(reader.call(Type::kMkdir, kRoot, "n", 0700u, kNoUser).error, EROFS);
  EXPECT_EQ(reader.call(Type::kSymlink, kRoot, "n", "t", kNoUser).error, EROFS);
  EXPECT_EQ(reader.call(Type::kMknod, kRoot, "n", uint32_t{S_IFIFO}, 0u, 0u, kNoUser).error, EROFS);
  EXPECT_EQ(reader.call(Type::kLink, kRoot, kFile, "n").error, EROFS);
  EXPECT_EQ(reader.call(Type::kRename, kFile, kRoot, "n").error, EROFS);
  EXPECT_EQ(reader.call(Type::kRenameat, kRoot, "file", kRoot, "n").error, EROFS);
  EXPECT_EQ(reader.call(Type::kUnlinkat, kRoot, "file", 0u).error, EROFS);
  EXPECT_EQ(reader
                .call(Type::kSetattr, kFile, set::kSize, 0u, 0u, 0u, uint64_t{0}, uint64_t{0}, uint64_t{0},
                      uint64_t{0}, uint64_t{0})
                .error,
            EROFS);
  EXPECT_EQ(reader.call(Type::kXattrcreate, kFile, "user.x", uint64_t{1}, 0u).error, EROFS);
  EXPECT_EQ(reader.open(kFile).error, 0);
  EXPECT_EQ(reader.read(kFile).data(), "abc");
  EXPECT_EQ(reader.call(Type::kRemove, kFile).error, EROFS);
  EXPECT_EQ(get("file"), "abc");
}

}  // namespace
}  // namespace ostler::fs9p
