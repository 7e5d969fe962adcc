// Requests that failed and that the user wants to be made again: werror=stop, rerror=stop, and ignored ones.
#include "fixture.h"

namespace ostler::ide::test {
namespace {

using block::Verdict;

class Kept : public ChannelTest {
 protected:
  static constexpr uint8_t kBusy = 0x80;
  void SetUp() override {
    with_disk();
    disk->verdict = Verdict::kKeep;
  }
  bool busy() { return (alternate() & kBusy) != 0; }
  void set_errors(int error) {
    disk->read_error = disk->write_error = disk->flush_error = disk->discard_error = error;
  }
  // The guest was stopped; there is room again, and it goes on.
  void go_on() {
    EXPECT_TRUE(busy());
    EXPECT_FALSE(irq());
    EXPECT_EQ(std::exchange(disk->paused_for, 0), ENOSPC);
    set_errors(0);
    disk->resume();
    EXPECT_EQ(disk->paused_for, 0);
    EXPECT_TRUE(irq());
  }
  // The same on a machine that was saved meanwhile and is restored.
  void reload() {
    channel.quiesce();
    state::Saver saver;
    channel.state(saver);
    const auto saved = saver.take();
    control(4);
    control(0);
    EXPECT_FALSE(busy());
    state::Loader loader(saved);
    channel.state(loader);
    ASSERT_TRUE(loader.finish());
  }
  void trim(uint64_t first, uint64_t second) {
    std::string ranges(512, '\0');
    std::memcpy(ranges.data(), &first, 8);
    std::memcpy(ranges.data() + 8, &second, 8);
    put(kMemory, ranges);
    table({{kMemory, 512}});
    out(Register::kFeatures, 1);
    address48(0, 1);
    out(Register::kFeatures, 1);
    command(Command::kDataSetManagement);
    start(false);
  }
};

TEST_F(Kept, AWriteByDmaIsMadeAgain) {
  set_errors(ENOSPC);
  put(kMemory, std::string(1024, 'W'));
  put(kMemory + 0x4000, std::string(512, 'X'));
  table({{kMemory, 1024}, {kMemory + 0x4000, 512}});
  address28(10, 3);
  command(Command::kWriteDma);
  start(false);
  disk->bytes.replace(10 * 512, 3 * 512, std::string(3 * 512, '?'));
  go_on();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(master_status(), 4);
  EXPECT_EQ(disk->sectors(10, 3), std::string(1024, 'W') + std::string(512, 'X'));
}

TEST_F(Kept, AReadByDmaIsMadeAgain) {
  set_errors(ENOSPC);
  table({{kMemory, 1024}});
  address28(7, 2);
  command(Command::kReadDma);
  start(true);
  go_on();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(guest(kMemory, 1024), disk->sectors(7, 2));
}

TEST_F(Kept, OnlyThePieceThatFailedIsMadeAgain) {
  // 3 MiB go in pieces of 1 MiB; the second fails.
  std::vector<Piece> pieces;
  for (uint64_t i = 0; i < 48; ++i) pieces.push_back({kMemory + i * 65536, 0});
  table(pieces);
  disk->hold = true;
  address48(0, 48 * 128);
  command(Command::kReadDmaExt);
  start(true);
  disk->release();
  set_errors(ENOSPC);
  disk->hold = false;
  disk->release();
  EXPECT_EQ(disk->reads, 2u);
  go_on();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->reads, 4u);
  EXPECT_EQ(guest(kMemory, 48 * 65536), disk->sectors(0, 48 * 128));
}

TEST_F(Kept, BlocksByPioAreMadeAgain) {
  set_errors(ENOSPC);
  address28(20, 2);
  command(Command::kWriteSectors);
  data_out(std::string(512, 'P'));
  go_on();
  EXPECT_EQ(status(), kData);
  data_out(std::string(512, 'Q'));
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->sectors(20, 2), std::string(512, 'P') + std::string(512, 'Q'));
  set_errors(ENOSPC);
  address28(20, 1);
  command(Command::kReadSectors);
  go_on();
  EXPECT_EQ(status(), kData);
  EXPECT_EQ(data_in(512), std::string(512, 'P'));
}

TEST_F(Kept, FlushVerifyAndTrimAreMadeAgain) {
  set_errors(ENOSPC);
  command(Command::kFlush);
  go_on();
  EXPECT_EQ(status(), kIdle);
  set_errors(ENOSPC);
  address28(0, 200);
  command(Command::kVerify);
  go_on();
  EXPECT_EQ(status(), kIdle);
  set_errors(ENOSPC);
  disk->log.clear();
  trim(10 | uint64_t{4} << 48, 100 | uint64_t{1} << 48);
  go_on();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->log, "ddd");
}

TEST_F(Kept, TheyFailAsOftenAsTheHostDoes) {
  set_errors(ENOSPC);
  command(Command::kFlush);
  disk->paused_for = 0;
  disk->resume();
  EXPECT_EQ(disk->paused_for, ENOSPC);
  EXPECT_TRUE(busy());
  go_on();
  EXPECT_EQ(status(), kIdle);
}

TEST_F(Kept, TheyArePartOfTheState) {
  set_errors(ENOSPC);
  put(kMemory, std::string(1024, 'W'));
  table({{kMemory, 1024}});
  address28(10, 2);
  command(Command::kWriteDma);
  start(false);
  reload();
  disk->bytes.replace(10 * 512, 2 * 512, std::string(2 * 512, '?'));
  go_on();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->sectors(10, 2), std::string(1024, 'W'));

  set_errors(ENOSPC);
  address28(30, 1);
  command(Command::kWriteSectors);
  data_out(std::string(512, 'P'));
  reload();
  disk->bytes.replace(30 * 512, 512, std::string(512, '?'));
  go_on();
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->sectors(30, 1), std::string(512, 'P'));
}

TEST_F(Kept, AResetForgetsThem) {
  set_errors(ENOSPC);
  address28(10, 1);
  command(Command::kReadSectors);
  EXPECT_TRUE(busy());
  control(4);
  control(0);
  EXPECT_EQ(status(), kIdle);
  set_errors(0);
  disk->resume();
  EXPECT_EQ(disk->reads, 1u);
  EXPECT_EQ(status(), kIdle);
}

TEST_F(Kept, ATransferThatTheGuestStopsIsNotMadeAgain) {
  set_errors(ENOSPC);
  table({{kMemory, 512}});
  address28(10, 1);
  command(Command::kReadDma);
  start(true);
  stop();
  set_errors(0);
  disk->resume();
  EXPECT_EQ(disk->reads, 1u);
  EXPECT_TRUE(busy());
}

TEST_F(Kept, IgnoredErrorsAreSuccess) {
  disk->verdict = Verdict::kIgnore;
  set_errors(EIO);
  table({{kMemory, 512}});
  address28(10, 1);
  command(Command::kWriteDma);
  start(false);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->paused_for, 0);
}

class KeptCd : public CdTest {};

TEST_F(KeptCd, ReadsOfAMediumAreMadeAgain) {
  cd->verdict = Verdict::kKeep;
  cd->read_error = EIO;
  send_packet({0x28, 0, 0, 0, 0, 9, 0, 0, 1});
  EXPECT_EQ(alternate() & 0x80, 0x80);
  EXPECT_EQ(cd->paused_for, EIO);
  cd->read_error = 0;
  cd->resume();
  EXPECT_EQ(data_in(2048), cd->bytes.substr(9 * 2048, 2048));
  EXPECT_EQ(status(), kIdle);
}

TEST_F(KeptCd, AnOpenedTrayEndsThem) {
  cd->verdict = Verdict::kKeep;
  cd->read_error = EIO;
  send_packet({0x28, 0, 0, 0, 0, 9, 0, 0, 1});
  EXPECT_TRUE(channel.with_drive(0, [this](Drive&) { return drive->open_tray(false); }));
  EXPECT_EQ(status(), kFailed);
  cd->read_error = 0;
  cd->resume();
  EXPECT_EQ(status(), kFailed);
}

}  // namespace
}  // namespace ostler::ide::test
