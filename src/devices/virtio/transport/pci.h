// Virtio over PCI (Virtio 1.2 §4.1): vendor 1af4, device 0x1040 + type, or of 0x1000 to 0x103f when it has
// the legacy interface.
//
//     BAR 0   ports of the legacy interface (LegacyPorts)
//     BAR 1   MSI-X table and pending bits
//     BAR 4   0x0000 common configuration   0x1000 ISR   0x2000 device configuration
//             0x3000 notifications, 4 bytes a queue
//     capabilities: MSI-X, the four structures above, and the configuration access window
//
// Interrupts: MSI-X vectors as the driver assigned them, or the pin with the ISR byte while MSI-X is off.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "bus/io_handler.h"
#include "devices/pci/bus.h"
#include "devices/pci/function.h"
#include "devices/pci/msix.h"
#include "devices/virtio/transport/control.h"
#include "devices/virtio/transport/pci_interfaces.h"
#include "devices/virtio/transport/queue_doorbells.h"

namespace ostler::virtio {

class LegacyPorts;

// Owns its device. Registers from any vCPU thread; locks are taken here.
class Pci final : public pci::Function, public bus::IoHandler, public bus::Doorbells, public Transport {
 public:
  // `vectors`: MSI-X vectors; 0: no MSI-X; nullopt: one for each queue and one for the configuration.
  // `interfaces` other than kModern: the device's type has a transitional_device_id().
  explicit Pci(std::unique_ptr<Device> device, std::optional<uint16_t> vectors = {},
               PciInterfaces interfaces = PciInterfaces::kModern);
  ~Pci() override;

  Device& device() { return *device_; }
  LegacyPorts* legacy_ports() { return legacy_.get(); }  // null: there is no legacy interface
  // Before it is plugged: notifications may come as eventfds, and are then served on the loop's thread.
  void serve_on(event::Loop& loop);
  // Before it is plugged: lend_interrupts() may do so, where the bus has bus::MessageFds.
  void lend_to_kernel() { lends_ = true; }
  // Waits until no request is in flight. vCPUs do not run meanwhile.
  void quiesce();

  std::string_view name() const override { return device_->name(); }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  std::span<const bus::Doorbell> doorbells() const override;

  void interrupt_queue(unsigned queue) override;
  void interrupt_config() override;
  void needs_reset() override;
  bool can_lend_interrupt(unsigned queue) const override;
  void lend_interrupts(std::span<LentInterrupt> each) override;
  void take_interrupt_back(unsigned queue) override;

 private:
  friend class LegacyPorts;
  void add_capabilities();
  void config_changed_locked(uint16_t offset, unsigned size) override;
  bool read_special(uint16_t offset, unsigned size, uint32_t& value) override;
  bool write_special(uint16_t offset, unsigned size, uint32_t value) override;
  void reset_device() override;
  void device_state(state::Archive& archive) override;

  uint32_t read_common_locked(uint64_t offset);
  void write_common_locked(uint64_t offset, uint32_t value);
  uint8_t take_isr();
  void clear_interrupts();
  void raise(uint16_t vector, uint8_t isr_bit);
  void write_queue_vector(unsigned queue, uint16_t vector);
  uint16_t checked_vector(uint32_t value) const;
  // The access that the configuration access capability describes now; false: none that we allow.
  bool window(uint64_t& offset, unsigned& size);

  const std::unique_ptr<Device> device_;
  std::unique_ptr<QueueDoorbells> doorbells_;
  std::optional<pci::Msix> msix_;
  memory::IoRegion region_;
  std::unique_ptr<LegacyPorts> legacy_;
  uint16_t window_capability_ = 0;  // 0: no modern interface

  std::mutex registers_mutex_;  // control_
  Control control_;
  std::atomic<uint16_t> config_vector_;
  std::array<std::atomic<uint16_t>, Device::kMaxQueues> queue_vectors_;

  bool lends_ = false;
  std::atomic<bus::MessageFds*> message_fds_{nullptr};  // of the bus, while there is one
  std::mutex
      lent_mutex_;  // below the device's lock, above MSI-X: lent_, and queue_vectors_ while they are lent
  std::array<std::optional<unsigned>, Device::kMaxQueues> lent_;  // sources of msix_

  std::mutex isr_mutex_;  // below the device's lock, above the interrupt pin
  uint8_t isr_ = 0;
};

}  // namespace ostler::virtio
