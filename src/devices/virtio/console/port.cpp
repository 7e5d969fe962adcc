#include "devices/virtio/console/port.h"

#include "devices/virtio/console/device.h"

namespace ostler::virtio::console {

size_t Port::can_receive() {
  return device_.can_receive(*this);
}
void Port::receive(std::span<const std::byte> bytes) {
  device_.receive(*this, bytes);
}
void Port::event(chardev::CharEvent event) {
  device_.host_event(*this, event);
}
void Port::writable() {
  device_.host_writable(*this);
}

}  // namespace ostler::virtio::console
