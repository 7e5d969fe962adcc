// Virtio over MMIO, register layout version 2 (Virtio 1.2 §4.2). One interrupt line, asserted while
// InterruptStatus is not 0.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "bus/io_handler.h"
#include "bus/irq.h"
#include "devices/virtio/transport/control.h"
#include "devices/virtio/transport/queue_doorbells.h"
#include "state/archive.h"

namespace ostler::virtio {

// Owns its device. Registers from any vCPU thread; the lock is taken here.
class Mmio final : public bus::IoHandler, public bus::Doorbells, public Transport, public state::Savable {
 public:
  static constexpr uint64_t kSize = 0x200;  // of the memory range

  Mmio(std::unique_ptr<Device> device, bus::IrqLine line);
  ~Mmio() override;

  Device& device() { return *device_; }
  // Before it is plugged: notifications may come as eventfds, and are then served on the loop's thread.
  void serve_on(event::Loop& loop);
  // Waits until no request is in flight. vCPUs do not run meanwhile.
  void quiesce();
  void reset();  // machine reset

  std::string_view name() const override { return device_->name(); }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  std::span<const bus::Doorbell> doorbells() const override;

  void interrupt_queue(unsigned queue) override;
  void interrupt_config() override;
  void needs_reset() override;

  void state(state::Archive& archive) override;

 private:
  uint32_t read_register_locked(uint64_t offset);
  void write_register_locked(uint64_t offset, uint32_t value);
  void raise(uint32_t bits);
  void acknowledge(uint32_t bits);

  const std::unique_ptr<Device> device_;
  std::unique_ptr<QueueDoorbells> doorbells_;
  const bus::IrqLine line_;
  std::mutex mutex_;  // control_
  Control control_;
  std::mutex interrupt_mutex_;  // innermost: interrupt_status_ and the line
  uint32_t interrupt_status_ = 0;
};

}  // namespace ostler::virtio
