// A CD drive by its packets: each command, media that come and go, and what is refused.
#include "fixture.h"

namespace ostler::ide::test {
namespace {

class Cd : public CdTest {
 protected:
  unsigned be16(size_t index) const { return unsigned{at(index)} << 8 | at(index + 1); }
  uint32_t be32(size_t index) const { return uint32_t{be16(index)} << 16 | be16(index + 2); }
  std::string blocks_of_cd(uint32_t first, uint32_t count) const {
    return cd->bytes.substr(size_t{first} * 2048, size_t{count} * 2048);
  }
  bool open_tray(bool force = false) {
    return channel.with_drive(0, [&](Drive&) { return drive->open_tray(force); });
  }
  void close_tray() {
    channel.with_drive(0, [this](Drive&) {
      drive->close_tray();
      return true;
    });
  }
};

TEST_F(Cd, ResetShowsTheSignatureOfAPacketDevice) {
  control(4);
  control(0);
  EXPECT_EQ(in(Register::kMid), 0x14);
  EXPECT_EQ(in(Register::kHigh), 0xeb);
  EXPECT_EQ(status(), 0);
}

TEST_F(Cd, IdentifyIsAbortedWithTheSignature) {
  command(Command::kIdentify);
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(in(Register::kMid), 0x14);
  EXPECT_EQ(in(Register::kHigh), 0xeb);
}

TEST_F(Cd, IdentifyPacketTellsWhatItIs) {
  command(Command::kIdentifyPacket);
  EXPECT_EQ(status(), kData);
  const std::string data = data_in(512);
  EXPECT_EQ(static_cast<uint8_t>(data[0]), 0xc0);
  EXPECT_EQ(static_cast<uint8_t>(data[1]), 0x85);
  EXPECT_EQ(status(), kIdle);
}

TEST_F(Cd, DeviceResetWorksInTheMiddleOfACommand) {
  send_packet({0x12, 0, 0, 0, 36});
  EXPECT_EQ(status(), kData);
  command(Command::kDeviceReset);
  EXPECT_EQ(status(), 0);
  EXPECT_EQ(in(Register::kMid), 0x14);
}

TEST_F(Cd, Inquiry) {
  EXPECT_EQ(packet({0x12, 0, 0, 0, 36}), kIdle);
  ASSERT_EQ(reply.size(), 36u);
  EXPECT_EQ(at(0), 5);
  EXPECT_EQ(at(1), 0x80);
  EXPECT_EQ(reply.substr(8, 14), "OSTLER  A DISK");
  EXPECT_EQ(packet({0x12, 0, 0, 0, 5}), kIdle);
  EXPECT_EQ(reply.size(), 5u) << "no more than is asked for";
  EXPECT_EQ(packet({0x12, 1, 0x80, 0, 36}), kFailed);
  EXPECT_EQ(sense(), "5/24/00");
}

TEST_F(Cd, ReadsBlocks) {
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 10, 0, 0, 3}), kIdle);
  EXPECT_EQ(reply, blocks_of_cd(10, 3));
  EXPECT_EQ(packet({0xa8, 0, 0, 0, 0, 100, 0, 0, 0, 100}), kIdle);
  EXPECT_EQ(reply, blocks_of_cd(100, 100));
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 10}), kIdle) << "none";
  EXPECT_EQ(reply, "");
}

TEST_F(Cd, ReadsInBlocksOfTheLimitThatTheGuestSets) {
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 10, 0, 0, 3}, 2048), kIdle);
  EXPECT_EQ(reply, blocks_of_cd(10, 3));
  EXPECT_EQ(blocks, 3u);
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 10, 0, 0, 1}, 1000), kIdle);
  EXPECT_EQ(reply, blocks_of_cd(10, 1));
  EXPECT_EQ(blocks, 3u);
}

TEST_F(Cd, ReadsByDma) {
  table({{kMemory, 4096}, {kMemory + 0x5000, 2048}});
  send_packet({0x28, 0, 0, 0, 0, 20, 0, 0, 3}, true);
  start(true);
  EXPECT_TRUE(irq());
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(in(Register::kCount), 3);
  EXPECT_EQ(guest(kMemory, 4096) + guest(kMemory + 0x5000, 2048), blocks_of_cd(20, 3));
}

TEST_F(Cd, RepliesByDma) {
  table({{kMemory, 36}});
  send_packet({0x12, 0, 0, 0, 36}, true);
  start(true);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory + 8, 6), "OSTLER");
}

TEST_F(Cd, StateAfterAReplyOfOddLengthByDmaIsTaken) {
  table({{kMemory, 36}});
  send_packet({0x12, 0, 0, 0, 5}, true);
  start(true);
  EXPECT_EQ(status(), kIdle);
  state::Saver saver;
  channel.state(saver);
  const auto saved = saver.take();
  state::Loader loader(saved);
  channel.state(loader);
  EXPECT_TRUE(loader.finish());
}

TEST_F(Cd, ReadsBeyondTheEndAreRefused) {
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0x03, 0xe7, 0, 0, 2}), kFailed);
  EXPECT_EQ(in(Register::kFeatures) >> 4, 5);
  EXPECT_EQ(sense(), "5/21/00");
  EXPECT_EQ(packet({0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}), kFailed);
  EXPECT_EQ(sense(), "5/21/00");
  EXPECT_EQ(packet({0x2b, 0, 0, 0, 0x03, 0xe8}), kFailed);
  EXPECT_EQ(sense(), "5/21/00");
  EXPECT_EQ(packet({0x2b, 0, 0, 0, 0x03, 0xe7}), kIdle);
}

TEST_F(Cd, ErrorsOfTheHostAreMediumErrors) {
  cd->read_error = EIO;
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 10, 0, 0, 3}), kFailed);
  EXPECT_EQ(sense(), "3/11/00");
}

TEST_F(Cd, ReadCdGivesUserDataOnly) {
  EXPECT_EQ(packet({0xbe, 0, 0, 0, 0, 7, 0, 0, 2, 0x10}), kIdle);
  EXPECT_EQ(reply, blocks_of_cd(7, 2));
  EXPECT_EQ(packet({0xbe, 0, 0, 0, 0, 7, 0, 0, 2, 0xf8}), kFailed);
  EXPECT_EQ(sense(), "5/24/00");
}

TEST_F(Cd, Capacity) {
  EXPECT_EQ(packet({0x25}), kIdle);
  EXPECT_EQ(be32(0), kBlocks - 1);
  EXPECT_EQ(be32(4), 2048u);
}

TEST_F(Cd, TableOfContents) {
  EXPECT_EQ(packet({0x43, 0, 0, 0, 0, 0, 0, 0, 100}), kIdle);
  ASSERT_EQ(reply.size(), 20u);
  EXPECT_EQ(be16(0), 18u);
  EXPECT_EQ(at(5), 0x14);
  EXPECT_EQ(at(6), 1);
  EXPECT_EQ(be32(8), 0u);
  EXPECT_EQ(at(14), 0xaa);
  EXPECT_EQ(be32(16), kBlocks);
  EXPECT_EQ(packet({0x43, 2, 0, 0, 0, 0, 0xaa, 0, 100}), kIdle);
  // 1000 blocks and 2 seconds are 15 seconds and 25 frames.
  EXPECT_EQ(reply.substr(8, 4), std::string("\0\0\x0f\x19", 4));
  EXPECT_EQ(packet({0x43, 0, 1, 0, 0, 0, 0, 0, 100}), kIdle);
  EXPECT_EQ(reply.size(), 12u);
  EXPECT_EQ(packet({0x43, 2, 2, 0, 0, 0, 0, 0, 100}), kIdle);
  EXPECT_EQ(reply.size(), 48u);
  EXPECT_EQ(packet({0x43, 0, 0, 0, 0, 0, 2, 0, 100}), kFailed) << "there is no track 2";
  EXPECT_EQ(packet({0x43, 0, 5, 0, 0, 0, 0, 0, 100}), kFailed);
  EXPECT_EQ(sense(), "5/24/00");
}

TEST_F(Cd, Configuration) {
  EXPECT_EQ(packet({0x46, 0, 0, 0, 0, 0, 0, 1, 0}), kIdle);
  EXPECT_EQ(be32(0) + 4, reply.size());
  EXPECT_EQ(be16(6), 8u) << "a CD";
  EXPECT_EQ(packet({0x46, 2, 0, 0x10, 0, 0, 0, 1, 0}), kIdle);
  ASSERT_EQ(reply.size(), 20u);
  EXPECT_EQ(be16(8), 0x10u);
  EXPECT_EQ(be32(12), 2048u);
}

TEST_F(Cd, ModePages) {
  EXPECT_EQ(packet({0x5a, 0, 0x2a, 0, 0, 0, 0, 1, 0}), kIdle);
  EXPECT_EQ(be16(0) + 2u, reply.size());
  EXPECT_EQ(at(8), 0x2a);
  EXPECT_EQ(packet({0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0}), kIdle);
  EXPECT_EQ(be16(0) + 2u, reply.size());
  EXPECT_EQ(at(8), 1);
  EXPECT_EQ(packet({0x5a, 0, 0x05, 0, 0, 0, 0, 1, 0}), kFailed);
  EXPECT_EQ(sense(), "5/24/00");
  EXPECT_EQ(packet({0x5a, 0, 0xea, 0, 0, 0, 0, 1, 0}), kFailed);
  EXPECT_EQ(sense(), "5/39/00");
}

TEST_F(Cd, SmallAnswers) {
  EXPECT_EQ(packet({0x51, 0, 0, 0, 0, 0, 0, 0, 34}), kIdle);
  EXPECT_EQ(be16(0), 32u);
  EXPECT_EQ(packet({0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8}), kIdle);
  EXPECT_EQ(reply.size(), 8u);
  EXPECT_EQ(packet({0x42, 0, 0x40, 2, 0, 0, 0, 0, 24}), kIdle);
  EXPECT_EQ(reply.size(), 24u);
  EXPECT_EQ(packet({0x42, 0, 0, 0, 0, 0, 0, 0, 24}), kIdle);
  EXPECT_EQ(reply.size(), 4u);
  EXPECT_EQ(packet({0xbb}), kIdle);
  EXPECT_EQ(packet({0x35}), kIdle);
}

TEST_F(Cd, UnknownPacketsAreRefused) {
  EXPECT_EQ(packet({0x2a}), kFailed) << "it cannot write";
  EXPECT_EQ(sense(), "5/20/00");
  EXPECT_EQ(sense(), "0/00/00") << "sense is told once";
}

TEST_F(Cd, GuestEjectsAndLoads) {
  EXPECT_EQ(packet({0x1b, 0, 0, 0, 2}), kIdle);
  EXPECT_TRUE(drive->tray_open());
  EXPECT_EQ(packet({0}), kFailed);
  EXPECT_EQ(sense(), "2/3a/02");
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 0, 0, 0, 1}), kFailed);
  EXPECT_EQ(packet({0x1b, 0, 0, 0, 3}), kIdle);
  EXPECT_EQ(packet({0}), kFailed);
  EXPECT_EQ(sense(), "6/28/00");
  EXPECT_EQ(packet({0}), kIdle);
}

TEST_F(Cd, LockedTraysStayClosed) {
  EXPECT_EQ(packet({0x1e, 0, 0, 0, 1}), kIdle);
  EXPECT_EQ(packet({0x1b, 0, 0, 0, 2}), kFailed);
  EXPECT_EQ(sense(), "5/53/02");
  EXPECT_FALSE(open_tray());
  // The guest hears of the wish.
  EXPECT_EQ(packet({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8}), kIdle);
  EXPECT_EQ(at(4), 1);
  EXPECT_EQ(at(5), 2);
  EXPECT_EQ(packet({0x1e, 0, 0, 0, 0}), kIdle);
  EXPECT_TRUE(open_tray());
  EXPECT_TRUE(drive->tray_open());
}

TEST_F(Cd, ForceOpensALockedTray) {
  EXPECT_EQ(packet({0x1e, 0, 0, 0, 1}), kIdle);
  EXPECT_TRUE(open_tray(true));
  EXPECT_EQ(packet({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8}), kIdle);
  EXPECT_EQ(at(4), 3) << "media removal";
  EXPECT_EQ(packet({0}), kFailed);
  EXPECT_EQ(sense(), "2/3a/02");
}

TEST_F(Cd, AnotherMediumIsToldBySenseAndEvent) {
  EXPECT_TRUE(open_tray());
  cd->bytes = "other" + std::string(10 * 2048 - 5, '\0');
  close_tray();
  EXPECT_EQ(packet({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8}), kIdle);
  EXPECT_EQ(at(4), 2) << "new medium";
  EXPECT_EQ(packet({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8}), kIdle);
  EXPECT_EQ(at(4), 0) << "told once";
  EXPECT_EQ(packet({0x25}), kFailed);
  EXPECT_EQ(sense(), "6/28/00");
  EXPECT_EQ(packet({0x25}), kIdle);
  EXPECT_EQ(be32(0), 9u);
  EXPECT_EQ(packet({0x28, 0, 0, 0, 0, 0, 0, 0, 1}), kIdle);
  EXPECT_EQ(reply.substr(0, 5), "other");
}

TEST_F(Cd, EventsMustBePolled) {
  EXPECT_EQ(packet({0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8}), kFailed);
  EXPECT_EQ(sense(), "5/24/00");
  EXPECT_EQ(packet({0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8}), kIdle);
  EXPECT_EQ(at(2), 0x80);
}

TEST_F(Cd, WithoutMediumItSaysSo) {
  EXPECT_TRUE(open_tray());
  cd->bytes.clear();
  close_tray();
  EXPECT_EQ(packet({0}), kFailed);
  EXPECT_EQ(sense(), "2/3a/01");
  EXPECT_EQ(packet({0x46, 0, 0, 0, 0, 0, 0, 1, 0}), kIdle);
  EXPECT_EQ(be16(6), 0u);
  EXPECT_EQ(packet({0x12, 0, 0, 0, 36}), kIdle);
}

TEST_F(Cd, OpeningInTheMiddleOfATransferEndsIt) {
  // Between two pieces of DMA, while the host reads the first.
  cd->hold = true;
  table({{kMemory, 2048}});
  send_packet({0x28, 0, 0, 0, 0, 0, 0, 0, 2}, true);
  start(true);
  EXPECT_TRUE(open_tray());
  cd->release();
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(sense(), "3/11/00");
}

TEST_F(Cd, OpeningBetweenTwoBlocksOfDataEndsTheCommand) {
  send_packet({0x28, 0, 0, 0, 0, 0, 0, 0, 2}, false, 2048);
  EXPECT_EQ(status(), kData);
  EXPECT_TRUE(open_tray());
  EXPECT_EQ(status(), kFailed);
}

TEST_F(Cd, StateInTheMiddleOfAReplyGoesOn) {
  send_packet({0x28, 0, 0, 0, 0, 30, 0, 0, 2}, false, 2048);
  std::string bytes = data_in(2000);
  state::Saver saver;
  channel.state(saver);
  const auto saved = saver.take();
  control(4);
  control(0);
  state::Loader loader(saved);
  channel.state(loader);
  ASSERT_TRUE(loader.finish());
  bytes += data_in(2096);
  EXPECT_EQ(bytes, blocks_of_cd(30, 2));
  EXPECT_EQ(status(), kIdle);
}

}  // namespace
}  // namespace ostler::ide::test
