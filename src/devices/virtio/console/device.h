// virtio-console with several ports (Virtio 1.2 §5.3). Port 0 is a console (hvc0); others are consoles or
// named channels. Queues: port 0 in, out; control in, out; then in, out of port 1, 2, …
//
// Output is written on the thread that notifies; input arrives on the event loop's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "config/property.h"
#include "devices/virtio/console/port.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"

namespace ostler::virtio::console {

inline constexpr unsigned VIRTIO_CONSOLE_F_SIZE = 0;
inline constexpr unsigned VIRTIO_CONSOLE_F_MULTIPORT = 1;

struct Options : DeviceOptions {
  uint16_t max_ports = 31;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();
const config::PropertyTable<PortOptions>& console_port_properties();  // virtconsole
const config::PropertyTable<PortOptions>& serial_port_properties();   // virtserialport

class ConsoleDevice final : public Device {
 public:
  static constexpr unsigned kMostPorts = 31;

  ConsoleDevice(memory::AddressSpace& memory, const Options& options);
  ~ConsoleDevice() override;

  // Whether a port has this name, by which a guest's udev links to one port only.
  bool has_name(std::string_view name) const;

  // Before the guest runs. `backend` may be null and outlives the device. Errors: the number is taken (kBusy)
  // or past max_ports.
  Result<void> add_port(const PortOptions& options, bool console, chardev::CharBackend* backend);

  uint16_t type() const override { return kTypeConsole; }

 private:
  friend class Port;
  enum Pending : uint8_t { kAdd = 1, kConsole = 2, kName = 4, kOpen = 8, kClose = 16 };

  uint64_t device_features() const override { return feature(VIRTIO_CONSOLE_F_MULTIPORT); }
  void config_locked(std::vector<std::byte>& config) override;
  void process(unsigned queue, Lock& lock) override;
  void started_locked() override;
  void stopped_locked() override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;

  static unsigned in_queue(unsigned port) { return port == 0 ? 0 : 2 + 2 * port; }
  static unsigned out_queue(unsigned port) { return in_queue(port) + 1; }
  static constexpr unsigned kControlIn = 2, kControlOut = 3;

  bool multiport() const { return has_feature(VIRTIO_CONSOLE_F_MULTIPORT); }
  Queue* enabled_queue(unsigned index) { return running() ? queue(index) : nullptr; }
  bool open_locked(const Port& port) const;
  void transmit_locked(Port& port, Queue& queue);
  // False: the back end is full.
  bool write_out_locked(Port& port, Queue& queue, const Chain& chain);
  void control_locked(Queue& queue);
  void control_message_locked(uint32_t id, uint16_t event, uint16_t value);
  void send_pending_locked();

  size_t can_receive(Port& port);
  void receive(Port& port, std::span<const std::byte> bytes);
  void host_event(Port& port, chardev::CharEvent event);
  void host_writable(Port& port);

  const Options options_;
  std::vector<std::unique_ptr<Port>> ports_;  // by number; null: none. Fixed once the guest runs.
};

}  // namespace ostler::virtio::console
