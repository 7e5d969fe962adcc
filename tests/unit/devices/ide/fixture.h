// A channel on a workbench: RAM for DMA, a wire that remembers, disks in memory whose requests can be held
// up.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "block/worker_pool.h"
#include "devices/ide/ata_disk.h"
#include "devices/ide/cd_drive.h"
#include "devices/ide/channel.h"
#include "memory/ram_block.h"
#include "unit/devices/chipset/bench.h"

namespace ostler::ide::test {

// A disk in memory. With `hold`, requests wait until release().
class MemoryDisk final : public block::Backend {
 public:
  explicit MemoryDisk(uint64_t size) : bytes(size, '\0') {}
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return bytes.size(); }
  bool read_only() const override { return false; }
  void read(uint64_t offset, std::vector<iovec> iov, block::Done done) override {
    later([this, offset, iov = std::move(iov), done = std::move(done)]() mutable {
      ++reads;
      for (const iovec& piece : iov) {
        if (!fits(offset, piece.iov_len)) return done(EINVAL);
        std::memcpy(piece.iov_base, bytes.data() + offset, piece.iov_len);
        offset += piece.iov_len;
      }
      done(read_error);
    });
  }
  void write(uint64_t offset, std::vector<iovec> iov, block::Done done) override {
    later([this, offset, iov = std::move(iov), done = std::move(done)]() mutable {
      log += 'w';
      for (const iovec& piece : iov) {
        if (!fits(offset, piece.iov_len)) return done(EINVAL);
        std::memcpy(bytes.data() + offset, piece.iov_base, piece.iov_len);
        offset += piece.iov_len;
      }
      done(write_error);
    });
  }
  void flush(block::Done done) override {
    later([this, done = std::move(done)] {
      log += 'f';
      done(flush_error);
    });
  }
  void discard(uint64_t offset, uint64_t length, block::Done done) override {
    later([this, offset, length, done = std::move(done)] {
      log += 'd';
      if (!fits(offset, length)) return done(EINVAL);
      std::memset(bytes.data() + offset, 'd', length);
      done(discard_error);
    });
  }
  void write_zeroes(uint64_t, uint64_t, bool, block::Done done) override { done(ENOTSUP); }
  void defer(std::function<void()> task) override {
    static block::WorkerPool pool(1);  // outlives every disk
    pool.run(std::move(task));
  }

  block::Verdict judge(bool, int) override { return verdict; }
  void pause_guest(int error) override { paused_for = error; }
  void on_resume(std::function<void()> handler) override { resume = std::move(handler); }

  void release() {
    auto now = std::exchange(held_, {});
    for (auto& each : now) each();
  }
  std::string sectors(uint64_t lba, uint64_t count) const { return bytes.substr(lba * 512, count * 512); }

  std::string bytes;
  bool hold = false;
  int read_error = 0, write_error = 0, flush_error = 0, discard_error = 0;
  unsigned reads = 0;
  std::string log;  // w, f, d in their order
  block::Verdict verdict = block::Verdict::kReport;
  int paused_for = 0;
  std::function<void()> resume;

 private:
  bool fits(uint64_t offset, uint64_t length) const {
    return offset <= bytes.size() && length <= bytes.size() - offset;
  }
  void later(std::function<void()> task) {
    if (hold)
      held_.push_back(std::move(task));
    else
      task();
  }
  const std::string name_ = "memory";
  std::deque<std::function<void()>> held_;
};

class ChannelTest : public testing::Test {
 protected:
  static constexpr uint64_t kRam = 4u << 20;
  static constexpr uint64_t kTable = 0x1000, kMemory = 0x10000;
  static constexpr uint64_t kSectors = 8192;

  ChannelTest() {
    memory::Transaction change(space);
    change.add(space.root(), 0, region);
    for (uint64_t i = 0; i < kSectors; ++i) {
      std::memset(disk->bytes.data() + i * 512, static_cast<int>('a' + i % 26), 512);
      std::memcpy(disk->bytes.data() + i * 512, &i, 8);
    }
  }
  static Options options() {
    Options result;
    result.serial = "S123";
    result.model = "A DISK";
    result.version = "7";
    return result;
  }
  void with_disk(const Options& wanted = options(), unsigned unit = 0) {
    ASSERT_TRUE(channel.attach(unit, std::make_unique<AtaDisk>(disk, wanted)));
  }

  // ---- registers ----
  uint8_t in(Register index) {
    return static_cast<uint8_t>(channel.command_ports().io_read(static_cast<uint64_t>(index), 1));
  }
  void out(Register index, unsigned value) {
    channel.command_ports().io_write(static_cast<uint64_t>(index), 1, value);
  }
  uint8_t alternate() { return static_cast<uint8_t>(channel.control_port().io_read(0, 1)); }
  void control(unsigned value) { channel.control_port().io_write(0, 1, value); }
  uint8_t status() { return in(Register::kCommand); }
  void command(Command code) { out(Register::kCommand, static_cast<unsigned>(code)); }
  void address28(uint64_t lba, unsigned count, unsigned unit = 0) {
    out(Register::kCount, count);
    out(Register::kLow, lba & 0xff);
    out(Register::kMid, lba >> 8 & 0xff);
    out(Register::kHigh, lba >> 16 & 0xff);
    out(Register::kDevice, 0xe0 | unit << 4 | (lba >> 24 & 15));
  }
  void address48(uint64_t lba, unsigned count) {
    out(Register::kDevice, 0xe0);
    out(Register::kCount, count >> 8);
    out(Register::kLow, lba >> 24 & 0xff);
    out(Register::kMid, lba >> 32 & 0xff);
    out(Register::kHigh, lba >> 40 & 0xff);
    out(Register::kCount, count & 0xff);
    out(Register::kLow, lba & 0xff);
    out(Register::kMid, lba >> 8 & 0xff);
    out(Register::kHigh, lba >> 16 & 0xff);
  }
  std::string data_in(size_t size) {
    std::string result;
    while (result.size() < size) {
      const auto word = static_cast<uint16_t>(channel.command_ports().io_read(0, 2));
      result += static_cast<char>(word);
      result += static_cast<char>(word >> 8);
    }
    return result;
  }
  void data_out(const std::string& bytes) {
    for (size_t i = 0; i < bytes.size(); i += 2)
      channel.command_ports().io_write(
          0, 2,
          static_cast<uint8_t>(bytes[i]) | static_cast<unsigned>(static_cast<uint8_t>(bytes[i + 1])) << 8);
  }

  // ---- DMA ----
  struct Piece {
    uint64_t address;
    uint32_t bytes;
  };
  void table(const std::vector<Piece>& pieces, bool ends = true) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      const bool last = ends && i + 1 == pieces.size();
      const uint32_t words[] = {static_cast<uint32_t>(pieces[i].address),
                                (pieces[i].bytes & 0xffff) | (last ? 0x80000000u : 0u)};
      std::memcpy(ram->host() + kTable + 8 * i, words, 8);
    }
    for (unsigned i = 0; i < 4; ++i) channel.write_bus_master(4 + i, static_cast<uint8_t>(kTable >> (8 * i)));
  }
  void start(bool to_guest) {
    channel.write_bus_master(2, 6);
    channel.write_bus_master(0, to_guest ? 8 : 0);
    channel.write_bus_master(0, to_guest ? 9 : 1);
  }
  void stop() { channel.write_bus_master(0, 0); }
  uint8_t master_status() { return channel.read_bus_master(2); }
  std::string guest(uint64_t at, size_t size) {
    return std::string(reinterpret_cast<const char*>(ram->host() + at), size);
  }
  void put(uint64_t at, const std::string& bytes) {
    std::memcpy(ram->host() + at, bytes.data(), bytes.size());
  }

  static constexpr uint8_t kIdle = 0x50, kData = 0x58, kFailed = 0x51;

  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> ram = *memory::RamBlock::create({.name = "ram", .size = kRam});
  memory::RamRegion region{"ram", ram};
  chipset::FakeIrqs irqs;
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>(kSectors * 512);
  Channel channel{space, bus::IrqLine(irqs, 14)};
  bool irq() const { return irqs.level(14); }
};

// With a CD of 1000 blocks.
class CdTest : public ChannelTest {
 protected:
  static constexpr uint32_t kBlocks = 1000;
  void SetUp() override {
    for (uint32_t i = 0; i < kBlocks; ++i)
      std::memset(cd->bytes.data() + i * 2048, static_cast<int>(i % 251), 2048);
    auto made = std::make_unique<CdDrive>(cd, options());
    drive = made.get();
    ASSERT_TRUE(channel.attach(0, std::move(made)));
    out(Register::kDevice, 0xa0);
    // The reset is told once.
    EXPECT_EQ(packet({0}), 0x51);
    EXPECT_EQ(sense(), "6/29/00");
  }
  void send_packet(std::vector<uint8_t> bytes, bool dma = false, unsigned limit = 0xfffe) {
    bytes.resize(12);
    out(Register::kFeatures, dma ? 1 : 0);
    out(Register::kMid, limit & 0xff);
    out(Register::kHigh, limit >> 8);
    command(Command::kPacket);
    EXPECT_EQ(alternate(), kData);
    EXPECT_EQ(in(Register::kCount), 1);
    data_out(std::string(bytes.begin(), bytes.end()));
  }
  // The whole of a command by PIO; its status, and its data in `reply`.
  uint8_t packet(const std::vector<uint8_t>& bytes, unsigned limit = 0xfffe) {
    reply.clear();
    blocks = 0;
    send_packet(bytes, false, limit);
    uint8_t now = status();
    for (; (now & 8) != 0; now = status()) {
      EXPECT_EQ(in(Register::kCount), 2);
      const size_t size = in(Register::kMid) | size_t{in(Register::kHigh)} << 8;
      reply += data_in(size).substr(0, size);
      ++blocks;
    }
    EXPECT_EQ(in(Register::kCount), 3);
    return now;
  }
  std::string sense() {
    EXPECT_EQ(packet({3, 0, 0, 0, 18}), kIdle);
    char text[16];
    std::snprintf(text, sizeof text, "%x/%02x/%02x", reply[2], static_cast<uint8_t>(reply[12]),
                  static_cast<uint8_t>(reply[13]));
    return text;
  }
  uint8_t at(size_t index) const { return static_cast<uint8_t>(reply.at(index)); }

  std::shared_ptr<MemoryDisk> cd = std::make_shared<MemoryDisk>(kBlocks * 2048);
  CdDrive* drive = nullptr;
  std::string reply;
  unsigned blocks = 0;
};

}  // namespace ostler::ide::test
