// One port of a virtio console: a character channel between a guest's device node and a chardev back end.
#pragma once

#include <string>

#include "chardev/char_backend.h"

namespace ostler::virtio::console {

class ConsoleDevice;

// virtconsole and virtserialport.
struct PortOptions {
  std::string id{};
  std::string bus{};
  std::string chardev{};
  std::string name{};  // /dev/virtio-ports/NAME
  uint16_t nr = kFirstFree;
  static constexpr uint16_t kFirstFree = 0xffff;
};

class Port final : public chardev::CharFrontend {
 public:
  Port(ConsoleDevice& device, unsigned number, bool console, std::string name, chardev::CharBackend* backend)
      : device_(device), number_(number), console_(console), name_(std::move(name)), backend_(backend) {}

  size_t can_receive() override;
  void receive(std::span<const std::byte> bytes) override;
  void event(chardev::CharEvent event) override;
  void writable() override;

 private:
  friend class ConsoleDevice;
  ConsoleDevice& device_;
  const unsigned number_;
  const bool console_;
  const std::string name_;
  chardev::CharBackend* const backend_;  // null: output is dropped

  // Guarded by the device's lock.
  bool host_connected_ = false;
  bool guest_open_ = false;
  uint8_t pending_ = 0;  // control messages that the guest has not got yet, as bits in the order of sending
  uint64_t sent_ = 0;  // of the chain at the head of the transmit queue, when the back end took a part of it
};

}  // namespace ostler::virtio::console
