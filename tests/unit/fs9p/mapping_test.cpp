// security_model=mapped-xattr: the guest has owners, links and devices, the host plain files of one user.
#include "fs9p/mapping.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "support/temp_folder.h"
#include "unit/fs9p/client.h"

namespace ostler::fs9p {
namespace {

using test::Answer;
using test::Client;
using test::kRoot;

constexpr uint32_t kUser = 1000, kGroup = 2000;

class MappingTest : public ::testing::Test {
 protected:
  MappingTest() { client.mount(kUser); }
  struct stat status(const std::string& name) {
    struct stat info {};
    EXPECT_EQ(::lstat((folder / name).c_str(), &info), 0) << name;
    return info;
  }
  uint32_t uid(uint32_t fid) { return client.attributes(fid).get<uint32_t>(8 + 13 + 4); }
  uint32_t gid(uint32_t fid) { return client.attributes(fid).get<uint32_t>(8 + 13 + 8); }
  uint64_t special(uint32_t fid) { return client.attributes(fid).get<uint64_t>(8 + 13 + 12 + 8); }

  ostler::test::TempFolder folder;
  std::shared_ptr<Share> share = test::open_share(folder.path(), Security::kMapped);
  Client client{share};
};

TEST_F(MappingTest, a_new_file_belongs_to_the_guests_user_and_to_ours) {
  client.walk(1, {});
  ASSERT_EQ(client.call(Type::kLcreate, 1u, "file", 2u, 04755u, kGroup).error, 0);
  EXPECT_EQ(client.mode(1), S_IFREG | 04755u);
  EXPECT_EQ(uid(1), kUser);
  EXPECT_EQ(gid(1), kGroup);
  EXPECT_EQ(status("file").st_mode, S_IFREG | 0600u);
  EXPECT_EQ(status("file").st_uid, ::geteuid());
}

TEST_F(MappingTest, owner_and_mode_change_for_the_guest_alone) {
  ASSERT_EQ(client.call(Type::kMkdir, kRoot, "d", 0750u, kGroup).error, 0);
  client.walk(1, {"d"});
  EXPECT_EQ(client
                .call(Type::kSetattr, 1u, set::kMode | set::kUid, 01777u, 7u, 0u, uint64_t{0}, uint64_t{0},
                      uint64_t{0}, uint64_t{0}, uint64_t{0})
                .error,
            0);
  EXPECT_EQ(client.mode(1), S_IFDIR | 01777u);
  EXPECT_EQ(uid(1), 7u);
  EXPECT_EQ(gid(1), kGroup);
  EXPECT_EQ(status("d").st_mode, S_IFDIR | 0700u);
}

TEST_F(MappingTest, links_and_devices_are_plain_files_of_the_host) {
  ASSERT_EQ(client.call(Type::kSymlink, kRoot, "link", "/any/where", kGroup).error, 0);
  EXPECT_EQ(client.walk(1, {"link"}).get<uint8_t>(2), Qid::kSymlink);
  const Answer target = client.call(Type::kReadlink, 1u);
  EXPECT_EQ(target.text(2, target.get<uint16_t>(0)), "/any/where");
  EXPECT_EQ(client.open(1).error, ELOOP);
  ASSERT_EQ(client.call(Type::kMknod, kRoot, "disk", uint32_t{S_IFBLK | 0660}, 8u, 3u, kGroup).error, 0);
  client.walk(2, {"disk"});
  EXPECT_EQ(client.mode(2), S_IFBLK | 0660u);
  EXPECT_EQ(special(2), makedev(8, 3));
  EXPECT_EQ(client.open(2).error, ENXIO);
  EXPECT_EQ(status("link").st_mode, S_IFREG | 0600u);
  EXPECT_EQ(status("disk").st_mode, S_IFREG | 0600u);
}

TEST_F(MappingTest, the_attributes_are_those_of_qemu) {
  client.walk(1, {});
  ASSERT_EQ(client.call(Type::kLcreate, 1u, "file", 2u, 0640u, kGroup).error, 0);
  uint32_t value = 0;
  ASSERT_EQ(::getxattr((folder / "file").c_str(), "user.virtfs.mode", &value, 4), 4);
  EXPECT_EQ(value, S_IFREG | 0640u);
  ASSERT_EQ(::getxattr((folder / "file").c_str(), "user.virtfs.uid", &value, 4), 4);
  EXPECT_EQ(value, kUser);
}

TEST_F(MappingTest, the_guest_neither_sees_nor_sets_them) {
  client.walk(1, {});
  ASSERT_EQ(client.call(Type::kLcreate, 1u, "file", 2u, 0640u, kGroup).error, 0);
  client.walk(2, {"file"});
  EXPECT_EQ(client.call(Type::kXattrwalk, 2u, 3u, "").get<uint64_t>(0), 0u);
  EXPECT_EQ(client.call(Type::kXattrwalk, 2u, 4u, "user.virtfs.mode").error, EOPNOTSUPP);
  EXPECT_EQ(client.call(Type::kXattrcreate, 2u, "user.virtfs.mode", uint64_t{4}, 0u).error, EOPNOTSUPP);
}

TEST_F(MappingTest, an_attribute_cannot_make_a_folder_of_a_file) {
  std::ofstream(folder / "file") << "x";
  const uint32_t mode = S_IFDIR | 0755;
  ASSERT_EQ(::setxattr((folder / "file").c_str(), "user.virtfs.mode", &mode, 4, 0), 0);
  client.walk(1, {"file"});
  EXPECT_TRUE(S_ISREG(client.mode(1)));
}

}  // namespace
}  // namespace ostler::fs9p
