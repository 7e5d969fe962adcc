// One IDE channel: two drives on a cable, the registers through which the guest reaches them, its interrupt
// and its bus master (ATA/ATAPI-7 volume 2; the PC's addresses: 82371SB §2.8).
//
// Threads: registers from any vCPU; the host's disk completes on its own threads. One mutex, not held while
// the disk is called. A drive has one request with its disk at a time, whatever the guest does, a reset
// included. One that failed, and that the user wants to be made again (werror=stop), is kept until the guest
// goes on.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "bus/irq.h"
#include "bus/late_writes.h"
#include "devices/chipset/io_range.h"
#include "devices/ide/bus_master.h"
#include "devices/ide/drive.h"

namespace ostler::ide {

class Channel final : public state::Savable {
 public:
  static constexpr unsigned kUnits = 2;

  Channel(memory::AddressSpace& memory, bus::IrqLine irq);
  ~Channel() override;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Before the guest runs. kBusy: the place is taken.
  Result<void> attach(unsigned unit, std::unique_ptr<Drive> drive);
  bool has(unsigned unit) const { return drives_[unit] != nullptr; }

  bus::IoHandler& command_ports() { return command_ports_; }  // 8, from 0x1f0 or 0x170
  bus::IoHandler& control_port() { return control_port_; }    // 0x3f6 or 0x376
  uint8_t read_bus_master(unsigned port);
  void write_bus_master(unsigned port, uint8_t value);
  // What the PCI function's configuration allows: answering its ports, reading and writing memory.
  void allow(bool ports, bool memory);

  // Runs `change` on a drive, as another register of it would: for a change of medium.
  template <class Change>
  auto with_drive(unsigned unit, Change change) {
    Lock lock(mutex_);
    auto result = change(*drives_[unit]);
    go_on(lock);
    return result;
  }

  // Control thread, vCPUs paused.
  void reset();
  void quiesce();  // no request is with the host afterwards
  void state(state::Archive& archive) override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct Flight;

  // Features, count and address of the next command are looked at when the command comes.
  class CommandPorts final : public bus::IoHandler, public bus::LateWrites {
   public:
    explicit CommandPorts(Channel& channel) : channel_(channel) {}
    std::string_view name() const override { return "ide"; }
    uint64_t io_read(uint64_t offset, unsigned size) override {
      return channel_.read_command_block(offset, size);
    }
    void io_write(uint64_t offset, unsigned size, uint64_t value) override {
      channel_.write_command_block(offset, size, value);
    }
    std::span<const bus::LateRange> late_writes() const override;

   private:
    Channel& channel_;
  };

  uint64_t read_command_block(uint64_t offset, unsigned size);
  void write_command_block(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_control(uint64_t offset, unsigned size);
  void write_control(uint64_t offset, unsigned size, uint64_t value);

  uint8_t read_locked(Register index);
  void write_locked(Register index, uint8_t value);
  uint8_t status_locked() const;
  Drive* selected_locked() const { return drives_[selected_].get(); }
  void run(Drive& drive, Lock& lock);
  void move_dma_locked(Drive& drive);
  void submit(const std::shared_ptr<Flight>& flight);
  void done(const std::shared_ptr<Flight>& flight, int error);
  void finish_locked(Flight& flight);
  bool keep_locked(Flight& flight);
  void repeat_kept();
  void go_on(Lock& lock);
  void update_interrupt_locked();

  const bus::IrqLine irq_;
  std::atomic<bool> ports_allowed_{true}, memory_allowed_{true};
  std::mutex mutex_;
  std::condition_variable idle_;
  unsigned in_flight_ = 0;
  BusMaster master_;
  std::array<std::unique_ptr<Drive>, kUnits> drives_;
  uint8_t selected_ = 0;
  uint8_t control_ = 0;
  bool level_ = false;
  CommandPorts command_ports_;
  chipset::IoRange<Channel> control_port_;
};

}  // namespace ostler::ide
