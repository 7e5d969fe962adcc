// DMA of an IDE disk: the bus master's table, its states, and hostile ones.
#include "fixture.h"

namespace ostler::ide::test {
namespace {

class AtaDma : public ChannelTest {
 protected:
  void SetUp() override { with_disk(); }
};

TEST_F(AtaDma, ReadsIntoScatteredMemory) {
  table({{kMemory, 512}, {kMemory + 0x3002, 1022}, {kMemory + 0x8000, 2}});
  address28(50, 3);
  command(Command::kReadDma);
  EXPECT_EQ(alternate() & 0x80, 0x80);
  start(true);
  EXPECT_TRUE(irq());
  EXPECT_EQ(master_status(), 4) << "interrupt, not active";
  EXPECT_EQ(status(), kIdle);
  stop();
  EXPECT_EQ(guest(kMemory, 512) + guest(kMemory + 0x3002, 1022) + guest(kMemory + 0x8000, 2),
            disk->sectors(50, 3));
}

TEST_F(AtaDma, MasterMayBeStartedFirst) {
  table({{kMemory, 512}});
  start(true);
  EXPECT_EQ(master_status(), 1);
  address28(1, 1);
  command(Command::kReadDma);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory, 512), disk->sectors(1, 1));
}

TEST_F(AtaDma, WritesFromMemory) {
  put(kMemory, std::string(1024, 'W'));
  table({{kMemory, 1024}});
  address48(60, 2);
  command(Command::kWriteDmaExt);
  start(false);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->sectors(60, 2), std::string(1024, 'W'));
  EXPECT_EQ(disk->log, "w");
}

TEST_F(AtaDma, ForcedUnitAccessIsStable) {
  table({{kMemory, 512}});
  address48(60, 1);
  command(Command::kWriteDmaFuaExt);
  start(false);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->log, "wf");
}

TEST_F(AtaDma, LengthOf0Is64KiB) {
  table({{kMemory, 0}});
  address28(0, 128);
  command(Command::kReadDma);
  start(true);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory, 65536), disk->sectors(0, 128));
}

TEST_F(AtaDma, ManySmallRegions) {
  // 2048 regions of 2 bytes: more than the host's disk takes at once.
  std::vector<Piece> pieces;
  for (uint64_t i = 0; i < 2048; ++i) pieces.push_back({kMemory + 4 * i, 2});
  for (size_t i = 0; i < pieces.size(); ++i) {
    const uint32_t words[] = {static_cast<uint32_t>(pieces[i].address),
                              2 | (i + 1 == pieces.size() ? 0x80000000u : 0)};
    std::memcpy(ram->host() + 0x80000 + 8 * i, words, 8);
  }
  for (unsigned i = 0; i < 4; ++i) channel.write_bus_master(4 + i, static_cast<uint8_t>(0x80000u >> (8 * i)));
  address28(30, 8);
  command(Command::kReadDma);
  start(true);
  channel.quiesce();
  EXPECT_EQ(status(), kIdle);
  std::string bytes;
  for (const Piece& piece : pieces) bytes += guest(piece.address, 2);
  EXPECT_EQ(bytes, disk->sectors(30, 8));
}

TEST_F(AtaDma, LongTransfersGoThroughInPieces) {
  std::vector<Piece> pieces;
  for (uint64_t i = 0; i < 48; ++i) pieces.push_back({kMemory + i * 65536, 0});
  table(pieces);
  address48(0, 48 * 128);
  command(Command::kReadDmaExt);
  start(true);
  channel.quiesce();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory, 48 * 65536), disk->sectors(0, 48 * 128));
  EXPECT_EQ(disk->reads, 3u);
}

TEST_F(AtaDma, TableLongerThanTheTransferStaysActive) {
  table({{kMemory, 4096}});
  address28(0, 1);
  command(Command::kReadDma);
  start(true);
  EXPECT_EQ(master_status(), 5);
  stop();
  EXPECT_EQ(master_status(), 4);
}

TEST_F(AtaDma, TableShorterThanTheTransferWaitsForAnother) {
  table({{kMemory, 1024}});
  address28(0, 4);
  command(Command::kReadDma);
  start(true);
  EXPECT_FALSE(irq());
  EXPECT_EQ(master_status(), 0);
  EXPECT_EQ(alternate() & 0x80, 0x80);
  table({{kMemory + 1024, 1024}});
  start(true);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory, 2048), disk->sectors(0, 4));
}

TEST_F(AtaDma, TableOutsideOfMemoryIsAnErrorOfTheMaster) {
  table({{kMemory, 512}});
  for (unsigned i = 0; i < 4; ++i) channel.write_bus_master(4 + i, 0xf0);
  address28(0, 1);
  command(Command::kReadDma);
  start(true);
  EXPECT_EQ(master_status(), 2);
  EXPECT_FALSE(irq());
  channel.write_bus_master(2, 2);
  EXPECT_EQ(master_status(), 0);
  control(4);  // a reset gets the drive back
  control(0);
  EXPECT_EQ(status(), kIdle);
}

TEST_F(AtaDma, RegionOutsideOfMemoryTouchesNothing) {
  table({{kMemory, 256}, {0xf000'0000, 256}});
  address28(0, 1);
  command(Command::kWriteDma);
  start(false);
  EXPECT_EQ(master_status(), 2);
  EXPECT_EQ(disk->log, "");
}

TEST_F(AtaDma, TableWithoutAnEndIsLeft) {
  std::vector<Piece> pieces(300, Piece{kMemory, 2});
  table(pieces, false);
  address28(0, 1);
  command(Command::kReadDma);
  start(true);
  EXPECT_EQ(status(), kIdle);
  // 8192 regions are the most a table has: then the master stops.
  std::memset(ram->host() + 0x100000, 0, 0x10000);
  for (unsigned i = 0; i < 8192; ++i) {
    const uint32_t words[] = {kMemory, 2};
    std::memcpy(ram->host() + 0x200000 + 8 * i, words, 8);
  }
  for (unsigned i = 0; i < 4; ++i)
    channel.write_bus_master(4 + i, static_cast<uint8_t>(0x200000u >> (8 * i)));
  address28(0, 64);
  command(Command::kReadDma);
  start(true);
  channel.quiesce();
  EXPECT_EQ(master_status() & 1, 0);
}

TEST_F(AtaDma, WrongDirectionMovesNothing) {
  table({{kMemory, 512}});
  address28(0, 1);
  command(Command::kWriteDma);
  start(true);
  EXPECT_EQ(disk->log, "");
  EXPECT_EQ(disk->reads, 0u);
}

TEST_F(AtaDma, NothingMovesWithoutBusMastering) {
  channel.allow(true, false);
  table({{kMemory, 512}});
  address28(0, 1);
  command(Command::kReadDma);
  start(true);
  EXPECT_EQ(disk->reads, 0u);
}

TEST_F(AtaDma, ErrorsOfTheDiskEndTheCommand) {
  disk->read_error = EIO;
  table({{kMemory, 512}});
  address28(0x123, 1);
  command(Command::kReadDma);
  start(true);
  EXPECT_TRUE(irq());
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(in(Register::kFeatures), 0x40);
  EXPECT_EQ(in(Register::kLow), 0x23);
}

TEST_F(AtaDma, TrimDiscardsItsRanges) {
  std::string ranges(512, '\0');
  const uint64_t first = 10 | uint64_t{4} << 48, second = 100 | uint64_t{1} << 48;
  std::memcpy(ranges.data(), &first, 8);
  std::memcpy(ranges.data() + 16, &second, 8);
  put(kMemory, ranges);
  table({{kMemory, 512}});
  address48(0, 1);
  out(Register::kFeatures, 1);
  command(Command::kDataSetManagement);
  start(false);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->log, "dd");
  EXPECT_EQ(disk->sectors(10, 4), std::string(2048, 'd'));
  EXPECT_EQ(disk->sectors(14, 1)[20], 'a' + 14);
}

TEST_F(AtaDma, StateAfterATrimIsTaken) {
  put(kMemory, std::string(1024, '\0'));
  table({{kMemory, 1024}});
  address48(0, 2);
  out(Register::kFeatures, 1);
  command(Command::kDataSetManagement);
  start(false);
  EXPECT_EQ(status(), kIdle);
  state::Saver saver;
  channel.state(saver);
  const auto saved = saver.take();
  state::Loader loader(saved);
  channel.state(loader);
  EXPECT_TRUE(loader.finish());
}

TEST_F(AtaDma, TrimBeyondTheEndDiscardsNothing) {
  std::string ranges(512, '\0');
  const uint64_t first = 10 | uint64_t{4} << 48, second = (kSectors - 1) | uint64_t{2} << 48;
  std::memcpy(ranges.data(), &first, 8);
  std::memcpy(ranges.data() + 8, &second, 8);
  put(kMemory, ranges);
  table({{kMemory, 512}});
  address48(0, 1);
  out(Register::kFeatures, 1);
  command(Command::kDataSetManagement);
  start(false);
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(disk->log, "");
}

TEST_F(AtaDma, TrimOfTooMuchOrNothingIsAborted) {
  for (const unsigned count : {0u, 9u}) {
    address48(0, count);
    out(Register::kFeatures, 1);
    command(Command::kDataSetManagement);
    EXPECT_EQ(status(), kFailed);
  }
}

TEST_F(AtaDma, StateOfATransferThatWaitsForTheMaster) {
  address28(70, 2);
  command(Command::kReadDma);
  state::Saver saver;
  channel.state(saver);
  control(4);
  control(0);
  const auto saved = saver.take();
  state::Loader loader(saved);
  channel.state(loader);
  ASSERT_TRUE(loader.finish());
  table({{kMemory, 1024}});
  start(true);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory, 1024), disk->sectors(70, 2));
}

TEST_F(AtaDma, RequestsInFlightHoldTheMemoryAndEndBeforeTheChannel) {
  disk->hold = true;
  table({{kMemory, 512}});
  address28(70, 1);
  command(Command::kReadDma);
  start(true);
  std::jthread later([this] { disk->release(); });
  channel.reset();
  EXPECT_EQ(alternate(), kIdle);
  EXPECT_FALSE(irq());
}

// DEVICE RESET is for ATAPI devices. Were a busy disk to refuse it as it refuses other commands, a second one
// could begin, whose length the first one's end would be counted against.
TEST_F(AtaDma, DeviceResetDoesNotEndACommandOfADisk) {
  disk->hold = true;
  table({{kMemory, 4096}});
  address28(kSectors - 8, 8);
  command(Command::kWriteDma);
  start(false);
  command(Command::kDeviceReset);
  EXPECT_EQ(alternate() & 0x80, 0x80);
  EXPECT_FALSE(irq());
  address28(kSectors - 1, 1);
  command(Command::kWriteDma);
  disk->release();
  EXPECT_EQ(status(), kIdle) << "of the first, and nothing else has begun";
  EXPECT_EQ(disk->log, "w");
}

}  // namespace
}  // namespace ostler::ide::test
