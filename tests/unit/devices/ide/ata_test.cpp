// An IDE disk by its registers: each command, and what is refused.
#include "fixture.h"

namespace ostler::ide::test {
namespace {

class Ata : public ChannelTest {
 protected:
  void SetUp() override { with_disk(); }
  // IDENTIFY DEVICE as words.
  std::vector<uint16_t> identify() {
    command(Command::kIdentify);
    EXPECT_EQ(status(), kData);
    const std::string bytes = data_in(512);
    std::vector<uint16_t> words(256);
    std::memcpy(words.data(), bytes.data(), 512);
    EXPECT_EQ(status(), kIdle);
    return words;
  }
  static std::string text(const std::vector<uint16_t>& words, size_t first, size_t count) {
    std::string result;
    for (size_t i = first; i < first + count; ++i) {
      result += static_cast<char>(words[i] >> 8);
      result += static_cast<char>(words[i]);
    }
    return result;
  }
  uint8_t smart(unsigned what, unsigned low = 0, unsigned count = 1) {
    out(Register::kFeatures, what);
    out(Register::kCount, count);
    out(Register::kLow, low);
    out(Register::kMid, 0x4f);
    out(Register::kHigh, 0xc2);
    command(Command::kSmart);
    return status();
  }
  static unsigned sum(const std::string& bytes) {
    unsigned total = 0;
    for (const char each : bytes) total += static_cast<uint8_t>(each);
    return total & 0xff;
  }
};

TEST_F(Ata, ResetShowsTheSignatureOfADisk) {
  control(4);
  EXPECT_EQ(alternate(), 0x80);
  control(0);
  EXPECT_EQ(in(Register::kFeatures), 1);
  EXPECT_EQ(in(Register::kCount), 1);
  EXPECT_EQ(in(Register::kLow), 1);
  EXPECT_EQ(in(Register::kMid), 0);
  EXPECT_EQ(in(Register::kHigh), 0);
  EXPECT_EQ(status(), kIdle);
  EXPECT_FALSE(irq());
}

TEST_F(Ata, RegistersOfAnAbsentSecondDriveReadZero) {
  out(Register::kDevice, 0xb0);
  out(Register::kLow, 0x55);
  EXPECT_EQ(in(Register::kLow), 0);
  EXPECT_EQ(status(), 0);
  command(Command::kIdentify);
  EXPECT_FALSE(irq());
}

TEST(AtaCable, WithoutDrivesFloats) {
  memory::AddressSpace space("memory", memory::AddressSpace::kMemorySize);
  Channel channel(space, {});
  EXPECT_EQ(channel.command_ports().io_read(7, 1), 0x7fu);
  EXPECT_EQ(channel.control_port().io_read(0, 1), 0x7fu);
}

TEST_F(Ata, IdentifyTellsWhatTheDiskIs) {
  const auto words = identify();
  EXPECT_EQ(text(words, 10, 10), "S123                ");
  EXPECT_EQ(text(words, 27, 20).substr(0, 8), "A DISK  ");
  EXPECT_EQ(text(words, 23, 4), "7       ");
  EXPECT_EQ(words[60] | words[61] << 16, int{kSectors});
  EXPECT_EQ(words[100], kSectors);
  EXPECT_EQ(words[49] & 0x0300, 0x0300);
  EXPECT_EQ(words[83] & 0xc400, 0x4400);
  EXPECT_EQ(words[63], 0x0407);
  EXPECT_EQ(words[169], 1);
  EXPECT_EQ(sum(std::string(reinterpret_cast<const char*>(words.data()), 512)), 0u);
}

TEST_F(Ata, ReadsSectorsWithAnInterruptEach) {
  address28(100, 2);
  command(Command::kReadSectors);
  EXPECT_TRUE(irq());
  EXPECT_EQ(status(), kData);
  EXPECT_FALSE(irq());
  std::string bytes = data_in(512);
  EXPECT_TRUE(irq());
  EXPECT_EQ(status(), kData);
  bytes += data_in(512);
  EXPECT_FALSE(irq());
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(bytes, disk->sectors(100, 2));
}

TEST_F(Ata, ReadsBy32Bits) {
  address28(3, 1);
  command(Command::kReadSectors);
  std::string bytes;
  for (int i = 0; i < 128; ++i) {
    const auto value = static_cast<uint32_t>(channel.command_ports().io_read(0, 4));
    bytes.append(reinterpret_cast<const char*>(&value), 4);
  }
  EXPECT_EQ(bytes, disk->sectors(3, 1));
  EXPECT_EQ(status(), kIdle);
}

TEST_F(Ata, CountOf0Is256Sectors) {
  address28(0, 0);
  command(Command::kReadSectors);
  EXPECT_EQ(data_in(256 * 512), disk->sectors(0, 256));
  EXPECT_EQ(status(), kIdle);
}

TEST_F(Ata, WritesSectors) {
  address28(7, 2);
  command(Command::kWriteSectors);
  EXPECT_FALSE(irq());
  EXPECT_EQ(alternate(), kData);
  data_out(std::string(512, 'X'));
  EXPECT_TRUE(irq());
  EXPECT_EQ(status(), kData);
  data_out(std::string(512, 'Y'));
  EXPECT_TRUE(irq());
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->sectors(7, 2), std::string(512, 'X') + std::string(512, 'Y'));
  EXPECT_EQ(disk->log, "ww");
}

TEST_F(Ata, AddressesOf48Bits) {
  address48(5000, 3);
  command(Command::kReadSectorsExt);
  EXPECT_EQ(data_in(3 * 512), disk->sectors(5000, 3));
  address48(uint64_t{1} << 32 | 1, 1);
  command(Command::kReadSectorsExt);
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(in(Register::kFeatures), 0x10);
}

TEST_F(Ata, HighOrderBytesAreReadWithTheControlBit) {
  address48(0x0403'0201'0605, 0x0807);
  control(0x80);
  EXPECT_EQ(in(Register::kLow), 2);
  EXPECT_EQ(in(Register::kMid), 3);
  EXPECT_EQ(in(Register::kCount), 8);
  out(Register::kFeatures, 0);  // any write ends it
  EXPECT_EQ(in(Register::kLow), 5);
}

TEST_F(Ata, AddressesOfCylinderHeadSector) {
  // Cylinder 2, head 3, sector 4 of 16 heads and 63 sectors.
  out(Register::kCount, 1);
  out(Register::kLow, 4);
  out(Register::kMid, 2);
  out(Register::kHigh, 0);
  out(Register::kDevice, 0xa3);
  command(Command::kReadSectors);
  EXPECT_EQ(data_in(512), disk->sectors((2 * 16 + 3) * 63 + 3, 1));
  out(Register::kLow, 0);  // there is no sector 0
  command(Command::kReadSectors);
  EXPECT_EQ(status(), kFailed);
}

TEST_F(Ata, GeometryCanBeSet) {
  out(Register::kCount, 17);
  out(Register::kDevice, 0xa3);  // 4 heads
  command(Command::kInitializeParameters);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(identify()[56], 17);
  out(Register::kCount, 1);
  out(Register::kLow, 17);
  out(Register::kMid, 1);
  out(Register::kHigh, 0);
  out(Register::kDevice, 0xa2);
  command(Command::kReadSectors);
  EXPECT_EQ(data_in(512), disk->sectors((4 + 2) * 17 + 16, 1));
}

TEST_F(Ata, RangesBeyondTheEndAreRefusedAndTouchNothing) {
  for (const Command code : {Command::kReadSectors, Command::kWriteSectors, Command::kVerify,
                             Command::kReadDma, Command::kWriteDma}) {
    address28(kSectors - 1, 2);
    command(code);
    EXPECT_EQ(status(), kFailed);
    EXPECT_EQ(in(Register::kFeatures), 0x10);
  }
  EXPECT_EQ(disk->log, "");
  EXPECT_EQ(disk->reads, 0u);
}

TEST_F(Ata, MultipleMovesBlocksOfSectors) {
  address28(0, 3);
  command(Command::kReadMultiple);
  EXPECT_EQ(status(), kFailed) << "not set yet";
  out(Register::kCount, 3);
  command(Command::kSetMultiple);
  EXPECT_EQ(status(), kFailed) << "no power of two";
  out(Register::kCount, 4);
  command(Command::kSetMultiple);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(identify()[59], 0x0104);
  const unsigned before = irqs.edges[14];
  address28(10, 6);
  command(Command::kReadMultiple);
  EXPECT_EQ(status(), kData);
  std::string bytes = data_in(4 * 512);
  EXPECT_EQ(status(), kData);
  bytes += data_in(2 * 512);
  EXPECT_EQ(bytes, disk->sectors(10, 6));
  EXPECT_EQ(irqs.edges[14], before + 2);
  address48(20, 6);
  command(Command::kWriteMultipleExt);
  data_out(std::string(6 * 512, 'M'));
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->sectors(20, 6), std::string(6 * 512, 'M'));
  EXPECT_EQ(disk->log, "ww");
}

TEST_F(Ata, VerifyReadsWithoutGivingData) {
  address28(0, 0);
  command(Command::kVerify);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->reads, 2u);
}

TEST_F(Ata, FailedReadsAndWritesNameTheSector) {
  disk->read_error = EIO;
  address28(0x345, 1);
  command(Command::kReadSectors);
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(in(Register::kFeatures), 0x40);
  EXPECT_EQ(in(Register::kLow), 0x45);
  EXPECT_EQ(in(Register::kMid), 0x03);
  disk->write_error = EIO;
  address28(0x345, 1);
  command(Command::kWriteSectors);
  data_out(std::string(512, 'x'));
  EXPECT_EQ(status(), kFailed);
  EXPECT_EQ(in(Register::kFeatures), 0x04);
}

TEST_F(Ata, FlushGoesToTheDisk) {
  command(Command::kFlush);
  EXPECT_EQ(status(), kIdle);
  command(Command::kFlushExt);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->log, "ff");
  disk->flush_error = EIO;
  command(Command::kFlush);
  EXPECT_EQ(status(), kFailed);
}

TEST_F(Ata, WritesAreStableWithoutTheCache) {
  out(Register::kFeatures, 0x82);
  command(Command::kSetFeatures);
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(disk->log, "f");
  EXPECT_EQ(identify()[85] & 0x20, 0);
  address28(0, 1);
  command(Command::kWriteSectors);
  data_out(std::string(512, 'x'));
  EXPECT_EQ(disk->log, "fwf");
  out(Register::kFeatures, 0x02);
  command(Command::kSetFeatures);
  address28(0, 1);
  command(Command::kWriteSectors);
  data_out(std::string(512, 'x'));
  EXPECT_EQ(disk->log, "fwfw");
}

TEST_F(Ata, TransferModesAreShown) {
  out(Register::kFeatures, 3);
  out(Register::kCount, 0x21);
  command(Command::kSetFeatures);
  EXPECT_EQ(identify()[63], 0x0207);
  out(Register::kFeatures, 3);
  out(Register::kCount, 0x44);
  command(Command::kSetFeatures);
  EXPECT_EQ(identify()[88], 0x103f);
  out(Register::kFeatures, 3);
  out(Register::kCount, 0x27);
  command(Command::kSetFeatures);
  EXPECT_EQ(status(), kFailed);
}

TEST_F(Ata, PowerModesAreRemembered) {
  command(Command::kCheckPowerMode);
  EXPECT_EQ(in(Register::kCount), 0xff);
  command(Command::kStandbyImmediate);
  command(Command::kCheckPowerMode);
  EXPECT_EQ(in(Register::kCount), 0);
  command(Command::kIdle);
  command(Command::kCheckPowerMode);
  EXPECT_EQ(in(Register::kCount), 0xff);
}

TEST_F(Ata, NativeSizeIsTheLastSector) {
  out(Register::kDevice, 0xe0);
  command(Command::kReadNativeMax);
  EXPECT_EQ(in(Register::kLow) | in(Register::kMid) << 8, int{kSectors} - 1);
  command(Command::kReadNativeMaxExt);
  EXPECT_EQ(in(Register::kLow) | in(Register::kMid) << 8, int{kSectors} - 1);
}

TEST_F(Ata, BufferKeepsWhatIsWritten) {
  command(Command::kWriteBuffer);
  data_out(std::string(512, 'B'));
  EXPECT_EQ(status(), kIdle);
  identify();
  command(Command::kReadBuffer);
  EXPECT_EQ(data_in(512), std::string(512, 'B'));
}

TEST_F(Ata, DiagnosticShowsTheSignatureAndInterrupts) {
  address28(5, 5);
  command(Command::kDiagnostic);
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(Register::kFeatures), 1);
  EXPECT_EQ(in(Register::kLow), 1);
}

TEST_F(Ata, PositioningSucceedsAndUnknownCommandsAreAborted) {
  command(static_cast<Command>(0x10));
  EXPECT_EQ(status(), kIdle);
  command(static_cast<Command>(0x70));
  EXPECT_EQ(status(), kIdle);
  for (const unsigned code : {0x00u, 0x08u, 0xa0u, 0xa1u, 0xf1u, 0xffu}) {
    out(Register::kCommand, code);
    EXPECT_EQ(status(), kFailed) << code;
    EXPECT_EQ(in(Register::kFeatures), 0x04);
  }
}

TEST_F(Ata, SmartTellsThatAllIsWell) {
  EXPECT_EQ(smart(0xd0), kData);
  const std::string data = data_in(512);
  EXPECT_EQ(sum(data), 0u);
  EXPECT_EQ(data[2], 1) << "the first attribute";
  EXPECT_EQ(smart(0xd1), kData);
  EXPECT_EQ(sum(data_in(512)), 0u);
  EXPECT_EQ(smart(0xda), kIdle);
  EXPECT_EQ(in(Register::kMid), 0x4f);
  EXPECT_EQ(in(Register::kHigh), 0xc2);
  EXPECT_EQ(smart(0xd5, 0), kData);
  data_in(512);
  EXPECT_EQ(smart(0xd5, 1), kData);
  data_in(512);
  EXPECT_EQ(smart(0xd5, 0x99), kFailed);
  EXPECT_EQ(smart(0xd4, 1), kIdle);
  EXPECT_EQ(smart(0xd2, 0, 0xf1), kIdle);
}

TEST_F(Ata, SmartCanBeTurnedOff) {
  EXPECT_EQ(smart(0xd9), kIdle);
  EXPECT_EQ(identify()[85] & 1, 0);
  EXPECT_EQ(smart(0xd0), kFailed);
  EXPECT_EQ(smart(0xd8), kIdle);
  EXPECT_EQ(smart(0xda), kIdle);
  out(Register::kFeatures, 0xda);
  out(Register::kMid, 0);
  command(Command::kSmart);
  EXPECT_EQ(status(), kFailed) << "without the key";
}

TEST_F(Ata, InterruptsCanBeMasked) {
  control(2);
  command(Command::kFlush);
  EXPECT_FALSE(irq());
  control(0);
  EXPECT_TRUE(irq());
  alternate();
  EXPECT_TRUE(irq()) << "the alternate status acknowledges nothing";
  status();
  EXPECT_FALSE(irq());
}

TEST_F(Ata, BusyDrivesTakeNeitherCommandsNorRegisters) {
  disk->hold = true;
  address28(9, 1);
  command(Command::kReadSectors);
  EXPECT_EQ(alternate() & 0x80, 0x80);
  out(Register::kLow, 77);
  command(Command::kIdentify);
  disk->release();
  EXPECT_EQ(status(), kData);
  EXPECT_EQ(data_in(512), disk->sectors(9, 1));
}

TEST_F(Ata, ResetWaitsForTheRequestThatIsWithTheDisk) {
  disk->hold = true;
  address28(9, 1);
  command(Command::kReadSectors);
  control(4);
  control(0);
  EXPECT_EQ(alternate() & 0x80, 0x80);
  for (int i = 0; i < 100; ++i) {
    command(Command::kReadSectors);
    control(4);
    control(0);
  }
  disk->release();
  EXPECT_EQ(disk->reads, 1u) << "a guest cannot pile up requests";
  EXPECT_EQ(status(), kIdle);
  EXPECT_EQ(in(Register::kLow), 1);
  EXPECT_FALSE(irq());
}

TEST_F(Ata, DrivesOnACableAreSeparate) {
  auto other = std::make_shared<MemoryDisk>(64 * 512);
  other->bytes.replace(0, 6, "second");
  ASSERT_TRUE(channel.attach(1, std::make_unique<AtaDisk>(other, options())));
  EXPECT_FALSE(channel.attach(1, std::make_unique<AtaDisk>(other, options())));
  address28(0, 1, 1);
  command(Command::kReadSectors);
  EXPECT_EQ(data_in(512).substr(0, 6), "second");
  address28(1, 1, 0);
  command(Command::kReadSectors);
  EXPECT_EQ(data_in(512), disk->sectors(1, 1));
}

TEST_F(Ata, InterruptIsThatOfTheSelectedDrive) {
  auto other = std::make_shared<MemoryDisk>(64 * 512);
  ASSERT_TRUE(channel.attach(1, std::make_unique<AtaDisk>(other, options())));
  command(Command::kFlush);
  EXPECT_TRUE(irq());
  out(Register::kDevice, 0xf0);
  EXPECT_FALSE(irq());
  out(Register::kDevice, 0xe0);
  EXPECT_TRUE(irq());
}

TEST_F(Ata, StateInTheMiddleOfATransferGoesOn) {
  address28(40, 2);
  command(Command::kReadSectors);
  std::string bytes = data_in(700);
  state::Saver saver;
  channel.state(saver);
  const auto saved = saver.take();
  Channel other(space, bus::IrqLine(irqs, 14));
  ASSERT_TRUE(other.attach(0, std::make_unique<AtaDisk>(disk, options())));
  state::Loader loader(saved);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  while (bytes.size() != 1024) {
    const auto word = static_cast<uint16_t>(other.command_ports().io_read(0, 2));
    bytes += static_cast<char>(word);
    bytes += static_cast<char>(word >> 8);
  }
  EXPECT_EQ(bytes, disk->sectors(40, 2));
}

}  // namespace
}  // namespace ostler::ide::test
