// A CD drive on a SCSI bus: what differs from IDE's (tests/unit/devices/ide/cd_test.cpp has the commands),
// its reads and its tray.
#include "devices/scsi/cd.h"

#include <cerrno>
#include <thread>

#include "fixture.h"

namespace ostler::scsi::test {
namespace {

constexpr uint32_t kBlocks = rigs::MemoryNode::kBytes / kCdBlock;

class CdTest : public UnitTest {
 protected:
  void start() {
    auto made = std::make_unique<Cd>(node, options);
    cd = made.get();
    plug(std::move(made));
  }
  // Kind and presence of a polled media event.
  std::string event() { return answer({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}).substr(4, 2); }
  Cd* cd = nullptr;
};

TEST_F(CdTest, inquiry_is_that_of_a_scsi_unit) {
  options.vendor = "ACME";
  start();
  const std::string data = answer({0x12, 0, 0, 0, 36, 0});
  EXPECT_EQ(data[0], 5);
  EXPECT_EQ(data[1] & 0xff, 0x80);
  EXPECT_EQ(data[2], 6);
  EXPECT_EQ(data.substr(8, 8), "ACME    ");
  EXPECT_EQ(answer({0x12, 1, 0, 0, 255, 0}), std::string("\0\0\0\x02\x00\x83", 6).replace(0, 1, "\x05"));
}

TEST_F(CdTest, capacity_and_reads) {
  start();
  node->data.replace(kCdBlock, 5, "hello");
  const std::string capacity = answer({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(number(capacity, 0, 4), kBlocks - 1);
  EXPECT_EQ(number(capacity, 4, 4), kCdBlock);
  EXPECT_EQ(answer(ten(0x28, 1, 1), kCdBlock).substr(0, 5), "hello");
  EXPECT_EQ(answer(twelve(0xa8, 1, 1), kCdBlock).substr(0, 5), "hello");
  EXPECT_EQ(sense(ten(0x28, kBlocks, 1), {}, kCdBlock), sense::kOutOfRange);
  EXPECT_EQ(sense(ten(0x2a, 0, 1), std::string(kCdBlock, 'x')), sense::kInvalidOpcode);
  EXPECT_TRUE(begin(ten(0x28, 0, 2), {}, kCdBlock)->overrun);
}

TEST_F(CdTest, core_feature_names_the_bus) {
  start();
  const std::string features = answer({0x46, 2, 0, 1, 0, 0, 0, 0, 255, 0});
  EXPECT_EQ(number(features, 12, 4), 1u);
}

TEST_F(CdTest, mode_sense_of_both_lengths) {
  start();
  const std::string six = answer({0x1a, 0, 0x2a, 0, 255, 0});
  const std::string with_ten = answer({0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255, 0});
  EXPECT_EQ(number(six, 0, 1), six.size() - 1);
  EXPECT_EQ(number(with_ten, 0, 2), with_ten.size() - 2);
  EXPECT_EQ(six.substr(4), with_ten.substr(8));
}

TEST_F(CdTest, errors_of_the_host) {
  start();
  node->fail_with = EIO;
  EXPECT_EQ(sense(ten(0x28, 0, 1), {}, kCdBlock), sense::kReadError);
  node->verdict = block::Verdict::kKeep;
  const auto asked = begin(ten(0x28, 0, 1), {}, kCdBlock);
  EXPECT_EQ(asked->keep, EIO);
  node->fail_with = 0;
  asked->restart();
  unit->execute(asked);
  EXPECT_EQ(asked->transferred, kCdBlock);
  node->resume();
  EXPECT_EQ(controller.resumed, 1);
}

TEST_F(CdTest, medium_that_is_changed) {
  start();
  ASSERT_TRUE(cd->open_tray(false));
  EXPECT_EQ(sense({0x00}), sense::kNoMediumTrayOpen);
  EXPECT_EQ(event(), std::string("\x03\x01", 2));
  node->data.resize(2 * rigs::MemoryNode::kBytes);
  cd->close_tray();
  EXPECT_EQ(controller.told, (std::vector<Sense>{sense::kMediumChanged, sense::kMediumChanged}));
  EXPECT_EQ(event(), std::string("\x02\x02", 2));  // told before the attention
  EXPECT_EQ(sense({0x00}), sense::kMediumChanged);
  EXPECT_EQ(number(answer({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 0, 4), 2 * kBlocks - 1);
}

TEST_F(CdTest, request_sense_takes_the_attention) {
  start();
  cd->open_tray(false);
  cd->close_tray();
  EXPECT_EQ(answer({0x03, 0, 0, 0, 18, 0})[12], 0x28);
  EXPECT_EQ(sense({0x00}), sense::kNone);
}

TEST_F(CdTest, locked_tray) {
  start();
  EXPECT_EQ(sense({0x1e, 0, 0, 0, 1, 0}), sense::kNone);
  EXPECT_TRUE(cd->locked());
  EXPECT_FALSE(cd->open_tray(false));
  EXPECT_EQ(event(), std::string("\x01\x02", 2));
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 2, 0}), sense::kRemovalPrevented);
  EXPECT_TRUE(cd->open_tray(true));
  EXPECT_TRUE(cd->tray_open());
  unit->reset();
  EXPECT_FALSE(cd->locked());
  EXPECT_FALSE(cd->tray_open());
  EXPECT_EQ(sense({0x00}), sense::kReset);
}

TEST_F(CdTest, guest_ejects_and_loads) {
  start();
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 2, 0}), sense::kNone);
  EXPECT_TRUE(cd->tray_open());
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 3, 0}), sense::kNone);
  EXPECT_FALSE(cd->tray_open());
}

TEST_F(CdTest, open_tray_waits_for_reads) {
  start();
  node->hold = true;
  const auto asked = begin(ten(0x28, 0, 1), {}, kCdBlock);
  std::thread host([&] { EXPECT_TRUE(cd->open_tray(false)); });
  node->release();
  host.join();
  EXPECT_EQ(asked->ends, 1);
}

TEST_F(CdTest, empty_drive) {
  node->data.clear();
  start();
  EXPECT_EQ(sense({0x00}), sense::kNoMediumTrayClosed);
  EXPECT_EQ(sense(ten(0x28, 0, 1), {}, kCdBlock), sense::kNoMediumTrayClosed);
}

TEST_F(CdTest, state_survives) {
  start();
  EXPECT_EQ(sense({0x1e, 0, 0, 0, 1, 0}), sense::kNone);
  cd->open_tray(true);
  state::Saver saver;
  unit->state(saver);
  const auto saved = saver.take();
  unit->reset();
  state::Loader loader(saved);
  unit->state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_TRUE(cd->locked());
  EXPECT_TRUE(cd->tray_open());
  node->data.resize(4096);
  state::Loader other(saved);
  unit->state(other);
  EXPECT_FALSE(other.finish());
}

}  // namespace
}  // namespace ostler::scsi::test
