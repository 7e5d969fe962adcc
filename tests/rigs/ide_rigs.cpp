// An IDE controller with a disk and a CD drive, and a hostile driver's DMA tables in RAM.
#include "devices/ide/ata_disk.h"
#include "devices/ide/cd_drive.h"
#include "devices/ide/channel.h"
#include "memory/ram_block.h"
#include "rigs/prompt_disk.h"
#include "rigs/rigs.h"

namespace ostler::rigs {
namespace {

using chipset::FakeIrqs;
using ide::Command;
using ide::Register;

class IdeRig final : public Rig {
 public:
  IdeRig() {
    memory::Transaction(memory_).add(memory_.root(), 0, region_);
    auto cd = std::make_unique<ide::CdDrive>(disk_, ide::Options{});
    cd_ = cd.get();
    if (!channel_.attach(0, std::make_unique<ide::AtaDisk>(disk_, ide::Options{})) ||
        !channel_.attach(1, std::move(cd)))
      std::abort();
  }
  ~IdeRig() override { channel_.quiesce(); }
  state::Savable& device() override { return channel_; }
  std::vector<Range> ranges() override {
    return {{&channel_.command_ports(), 8}, {&channel_.control_port(), 1}, {&master_, 8}};
  }

  void stimulate(uint32_t random) override {
    const uint32_t more = random >> 4;
    switch (random % 16) {
      case 0:
      case 1:
        transfer(more);
        return;
      case 2:
      case 3:
        packet(more);
        return;
      case 4:
      case 5:
        fill_table(more);
        return;
      case 6:
        for (unsigned i = 0; i < 256 + more % 512; ++i) channel_.command_ports().io_read(0, 2);
        return;
      case 7:
        for (unsigned i = 0; i < 256; ++i) channel_.command_ports().io_write(0, 2, more * i);
        return;
      case 8:
        channel_.with_drive(1, [&](ide::Drive&) { return cd_->open_tray((more & 2) != 0); });
        return;
      case 9:
        channel_.with_drive(1, [&](ide::Drive&) {
          cd_->close_tray();
          return true;
        });
        return;
      case 10:
        channel_.allow((more & 3) != 0, (more & 12) != 0);
        return;
      case 11:
        if (more % 8 == 0) channel_.reset();
        if (more % 8 == 1) disk_->go_on();
        if (more % 8 > 4) {
          disk_->set_full(true);
          transfer(more >> 3);
          disk_->set_full(false);
        }
        return;
      default:
        channel_.write_bus_master(0, (more & 1) != 0 ? 9 : 1);
        return;
    }
  }

 private:
  struct Master final : bus::IoHandler {
    explicit Master(ide::Channel& of) : channel(of) {}
    std::string_view name() const override { return "bus master"; }
    uint64_t io_read(uint64_t offset, unsigned size) override {
      return chipset::read_bytes(
          offset, size, [&](uint64_t at) { return channel.read_bus_master(static_cast<unsigned>(at)); });
    }
    void io_write(uint64_t offset, unsigned size, uint64_t value) override {
      chipset::write_bytes(offset, size, value, [&](uint64_t at, uint8_t byte) {
        channel.write_bus_master(static_cast<unsigned>(at), byte);
      });
    }
    ide::Channel& channel;
  };

  void out(Register index, uint32_t value) {
    channel_.command_ports().io_write(static_cast<uint64_t>(index), 1, value & 0xff);
  }
  // A command of the disk at a place that mostly exists.
  void transfer(uint32_t random) {
    static constexpr Command kCommands[] = {
        Command::kReadSectors,  Command::kWriteSectors,      Command::kReadDma,
        Command::kWriteDma,     Command::kReadDmaExt,        Command::kWriteDmaFuaExt,
        Command::kReadMultiple, Command::kWriteMultipleExt,  Command::kVerifyExt,
        Command::kSmart,        Command::kDataSetManagement, Command::kIdentify,
        Command::kSetFeatures,  Command::kSetMultiple,       Command::kWriteBuffer,
        Command::kFlush};
    out(Register::kDevice, 0xe0);
    for (const Register each :
         {Register::kFeatures, Register::kCount, Register::kLow, Register::kMid, Register::kHigh})
      out(each, 0);
    const Command command = kCommands[random % 16];
    if (command == Command::kSmart) {
      out(Register::kMid, 0x4f);
      out(Register::kHigh, 0xc2);
      out(Register::kFeatures, 0xd0 + (random >> 8 & 15));
    } else {
      out(Register::kFeatures, command == Command::kDataSetManagement ? 1 : random >> 20);
      out(Register::kMid, random >> 12 & 7);
    }
    out(Register::kCount, random >> 4 & 31);
    out(Register::kLow, random >> 8);
    out(Register::kCommand, static_cast<uint32_t>(command));
  }
  void packet(uint32_t random) {
    static constexpr uint8_t kPackets[] = {0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0x42,
                                           0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8, 0xbd, 0xbe};
    out(Register::kDevice, 0xb0);
    out(Register::kFeatures, random >> 4 & 1);
    out(Register::kMid, random >> 5);
    out(Register::kHigh, random >> 13 & 15);
    out(Register::kCommand, static_cast<uint32_t>(Command::kPacket));
    uint8_t bytes[12] = {kPackets[random & 15]};
    for (unsigned i = 1; i < 12; ++i)
      bytes[i] = static_cast<uint8_t>((random >> (2 * i)) & (i == 5 || i >= 7 ? 0xff : 3));
    for (unsigned i = 0; i < 12; i += 2)
      channel_.command_ports().io_write(0, 2, bytes[i] | bytes[i + 1] << 8);
  }
  // A table of a few regions, some of them nowhere.
  void fill_table(uint32_t random) {
    const unsigned regions = 1 + random % 40;
    for (unsigned i = 0; i < regions; ++i) {
      const uint32_t mixed = random * 0x9e3779b9u + i * 0x85ebca6bu;
      const uint32_t address = (mixed & 0xf00) == 0 ? 0xfff00000 : mixed % (kRam / 2);
      const uint32_t bytes = (random & 64) != 0 ? 2u << (mixed >> 28 & 7) : mixed >> 16;
      const uint32_t words[] = {address, (bytes & 0xffff) | (i + 1 == regions ? 0x80000000u : 0)};
      std::memcpy(ram_->host() + kTable + 8 * i, words, 8);
    }
    for (unsigned i = 0; i < 4; ++i)
      channel_.write_bus_master(4 + i, static_cast<uint8_t>(kTable >> (8 * i)));
  }

  static constexpr uint32_t kRam = 1u << 20, kTable = 0xf0000;
  memory::AddressSpace memory_{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> ram_ = *memory::RamBlock::create({.name = "ram", .size = kRam});
  memory::RamRegion region_{"ram", ram_};
  std::shared_ptr<PromptDisk> disk_ = std::make_shared<PromptDisk>();
  FakeIrqs irqs_;
  ide::Channel channel_{memory_, bus::IrqLine(irqs_, 14)};
  ide::CdDrive* cd_ = nullptr;
  Master master_{channel_};
};

}  // namespace

std::vector<Kind> ide_kinds() {
  return {{"ide", [] { return std::make_unique<IdeRig>(); }}};
}

}  // namespace ostler::rigs
