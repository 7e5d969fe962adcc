// What the user asked for when requests fail, and the pause of a guest whose host has no room.
#include "machine/disk_errors.h"

#include "disks_fixture.h"
#include "event/clock.h"

namespace ostler::machine {
namespace {

using block::Verdict;

class DiskPolicies : public test::DisksTest {
 protected:
  Verdict judge(const std::string& policy, bool is_read, int error) {
    open({"-drive", "if=none,id=a,driver=null-co" + policy});
    return take("a")->judge(is_read, error);
  }
};

TEST_F(DiskPolicies, AFullDiskStopsTheGuestByDefault) {
  EXPECT_EQ(judge("", false, ENOSPC), Verdict::kKeep);
  EXPECT_EQ(judge("", false, EDQUOT), Verdict::kKeep);
  EXPECT_EQ(judge("", false, EIO), Verdict::kReport);
  EXPECT_EQ(judge("", true, ENOSPC), Verdict::kReport);
}

TEST_F(DiskPolicies, AsTheDriveSays) {
  EXPECT_EQ(judge(",werror=stop", false, EIO), Verdict::kKeep);
  EXPECT_EQ(judge(",werror=report", false, ENOSPC), Verdict::kReport);
  EXPECT_EQ(judge(",werror=ignore", false, EIO), Verdict::kIgnore);
  EXPECT_EQ(judge(",rerror=stop", true, EIO), Verdict::kKeep);
  EXPECT_EQ(judge(",rerror=ignore", true, EIO), Verdict::kIgnore);
}

TEST_F(DiskPolicies, TheDeviceOverrulesTheDrive) {
  open({"-drive", "if=none,id=a,driver=null-co,werror=report,rerror=stop"});
  DiskWish wish{.name = "a", .user = "-device test"};
  wish.write_error = "stop";
  wish.read_error = "auto";
  const auto disk = take(wish).at(0);
  EXPECT_EQ(disk->judge(false, EIO), Verdict::kKeep);
  EXPECT_EQ(disk->judge(true, EIO), Verdict::kKeep);
  disk->pause_guest(EIO);
  EXPECT_EQ(stopped_disk, "a");
  EXPECT_EQ(stop_error, EIO);
}

// A loop on the test's thread, and a guest that is paused or not.
class DiskErrorsTest : public testing::Test {
 protected:
  void run_until(std::function<bool()> holds) {
    until = std::move(holds);
    loop.post([this] { check(); });
    loop.run();
  }
  void check() {
    if (until())
      loop.stop();
    else
      loop.post([this] { check(); });
  }
  std::function<bool()> until;
  event::VirtualClock clock;
  event::Loop loop{clock};
  bool paused = false;
  int resumed = 0, sent = 0;
  int failures = 0;  // of the next sendings
  DiskErrors errors{loop,
                    {.paused = [this] { return paused; },
                     .pause = [this] { paused = true; },
                     .resume =
                         [this] {
                           paused = false;
                           ++resumed;
                         },
                     .send_again =
                         [this] {
                           ++sent;
                           if (failures-- > 0) errors.failed("a", ENOSPC);
                         }},
                    std::chrono::milliseconds(2)};
};

TEST_F(DiskErrorsTest, AGuestGoesOnWhenThereIsRoomAgain) {
  failures = 3;
  errors.failed("a", ENOSPC);
  errors.failed("a", ENOSPC);
  run_until([&] { return errors.waiting(); });
  EXPECT_TRUE(paused);
  run_until([&] { return resumed != 0; });
  EXPECT_FALSE(errors.waiting());
  EXPECT_EQ(sent, 4);
  EXPECT_EQ(resumed, 1);
}

TEST_F(DiskErrorsTest, OtherErrorsWaitForSomebody) {
  errors.failed("a", EIO);
  run_until([&] { return errors.waiting(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  bool turned = false;
  loop.post([&] { turned = true; });
  run_until([&] { return turned; });
  EXPECT_TRUE(paused);
  EXPECT_EQ(sent, 0);
}

TEST_F(DiskErrorsTest, AGuestThatSomebodyPausedStaysSo) {
  paused = true;
  errors.failed("a", ENOSPC);
  bool turned = false;
  loop.post([&] { turned = true; });
  run_until([&] { return turned; });
  EXPECT_FALSE(errors.waiting());
  EXPECT_EQ(resumed, 0);
}

}  // namespace
}  // namespace ostler::machine
