// Trays and media, with a tray that obeys a guest of the test's.
#include "machine/media.h"

#include "disks_fixture.h"

namespace ostler::machine {
namespace {

struct GuestsTray {
  bool open = false, locked = false;
  int asked = 0, told = 0;
};

class FakeTray final : public Tray {
 public:
  explicit FakeTray(GuestsTray& state) : state_(state) {}
  bool open(bool force) override {
    if (state_.locked && !force) {
      ++state_.asked;
      return false;
    }
    state_.open = true;
    return true;
  }
  void close() override {
    state_.open = false;
    ++state_.told;
  }
  bool is_open() const override { return state_.open; }
  bool is_locked() const override { return state_.locked; }

 private:
  GuestsTray& state_;
};

class MediaTest : public test::DisksTest {
 protected:
  void SetUp() override {
    make_file("a.iso", std::string(4096, 'a'));
    make_file("b.iso", std::string(8192, 'b'));
  }
  void TearDown() override {
    media.reset();
    DisksTest::TearDown();
  }
  void with_drive(std::vector<std::string> words, const std::string& drive = "cd") {
    open(std::move(words));
    disk = take({.name = drive, .user = "-device test", .device = "ide0", .removable = true}).at(0);
    media = std::make_unique<Media>(*disks);
    media->add("ide0", drive, std::make_unique<FakeTray>(tray));
  }
  std::string error_of(Result<void> done) { return done ? "" : done.error().message(); }

  GuestsTray tray;
  std::unique_ptr<Media> media;
  Backend disk = nullptr;
};

TEST_F(MediaTest, AMediumIsPutInChangedAndTakenOut) {
  with_drive({"-drive", "if=none,id=cd,media=cdrom"});
  EXPECT_EQ(disk->size(), 0u);
  EXPECT_FALSE(media->list().at(0).inserted);
  ASSERT_TRUE(media->change("cd", path("a.iso"), "raw", false));
  EXPECT_EQ(disk->size(), 4096u);
  EXPECT_TRUE(disk->read_only());
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'a'));
  EXPECT_FALSE(tray.open);
  EXPECT_EQ(tray.told, 1);
  EXPECT_EQ(media->list().at(0).file, path("a.iso"));
  ASSERT_TRUE(media->change("ide0", path("b.iso"), "", false));
  EXPECT_EQ(read(disk, 4096, 512), std::string(512, 'b'));
  // Nobody holds the former one any more.
  qemu_img("resize -q -f raw " + path("a.iso") + " 16384");
  ASSERT_TRUE(media->eject("cd", false));
  EXPECT_EQ(disk->size(), 0u);
  EXPECT_TRUE(tray.open);
  qemu_img("resize -q -f raw " + path("b.iso") + " 16384");
}

// As `-device ide-cd,drive=cd` users write it: what has no image is for media that come and go.
TEST_F(MediaTest, ADriveWithoutAnImageIsAnEmptyTray) {
  with_drive({"-drive", "if=none,id=cd"});
  EXPECT_EQ(disk->size(), 0u);
  ASSERT_TRUE(media->change("cd", path("a.iso"), "raw", false));
  EXPECT_TRUE(disk->read_only());
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'a'));
}

TEST_F(MediaTest, ALockedTrayIsForcedOrAskedFor) {
  with_drive({"-drive", "if=none,id=cd,media=cdrom,file=@/a.iso,format=raw"});
  tray.locked = true;
  EXPECT_NE(error_of(media->open_tray("cd", false)).find("the guest has locked the tray of 'cd'"),
            std::string::npos);
  EXPECT_EQ(tray.asked, 1);
  EXPECT_FALSE(media->change("cd", path("b.iso"), "raw", false));
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'a'));
  // The image that was opened for it is free again.
  qemu_img("resize -q -f raw " + path("b.iso") + " 16384");
  ASSERT_TRUE(media->change("cd", path("b.iso"), "raw", true));
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'b'));
}

TEST_F(MediaTest, AMediumThatCannotBeOpenedChangesNothing) {
  with_drive({"-drive", "if=none,id=cd,media=cdrom,file=@/a.iso,format=raw"});
  EXPECT_NE(error_of(media->change("cd", path("c.iso"), "raw", false)).find("no such disk image"),
            std::string::npos);
  EXPECT_FALSE(tray.open);
  EXPECT_EQ(tray.told, 0);
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'a'));
}

TEST_F(MediaTest, ANodeIsInsertedIntoAnOpenAndEmptyTray) {
  with_drive({"-blockdev", "raw,node-name=n,file.driver=file,file.filename=@/b.iso,read-only=on", "-drive",
              "if=none,id=cd,media=cdrom,file=@/a.iso,format=raw"});
  EXPECT_EQ(error_of(media->insert("cd", "n")), "the tray of 'cd' is closed; open it first");
  EXPECT_EQ(error_of(media->remove("cd")), "the tray of 'cd' is closed; open it first");
  ASSERT_TRUE(media->open_tray("cd", false));
  EXPECT_EQ(error_of(media->insert("cd", "n")), "there is a medium in 'cd' already; remove it first");
  ASSERT_TRUE(media->remove("cd"));
  ASSERT_TRUE(media->remove("cd"));
  EXPECT_EQ(error_of(media->insert("cd", "m")), "there is no disk or block node 'm'; did you mean 'n'?");
  ASSERT_TRUE(media->insert("cd", "n"));
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'b'));
  ASSERT_TRUE(media->close_tray("cd"));
  // It is still the node that the user made.
  ASSERT_TRUE(media->eject("cd", false));
  EXPECT_TRUE(disks->node("n"));
  ASSERT_TRUE(disks->remove_node("n"));
}

TEST_F(MediaTest, ADriveWithoutABackendTakesMediaToo) {
  with_drive({}, "");
  ASSERT_TRUE(media->change("ide0", path("a.iso"), "raw", false));
  EXPECT_EQ(read(disk, 0, 512), std::string(512, 'a'));
}

TEST_F(MediaTest, MistakesNameTheDrive) {
  with_drive({"-drive", "if=none,id=cd,media=cdrom"});
  EXPECT_EQ(error_of(media->eject("ide1", false)),
            "there is no drive with a removable medium 'ide1'; did you mean 'ide0'?");
  EXPECT_NE(take_error({.name = "cd", .user = "-device b"}).find("already used"), std::string::npos);
}

}  // namespace
}  // namespace ostler::machine
