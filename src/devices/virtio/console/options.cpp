// The properties of virtio-serial and its ports, as -device knows them.
#include "devices/virtio/console/device.h"

namespace ostler::virtio::console {
namespace {

std::vector<config::Property<Options>> own() {
  return {config::number<Options, uint16_t>("max_ports", &Options::max_ports, 1, ConsoleDevice::kMostPorts,
                                            "ports that can be plugged in")};
}

std::vector<config::Property<PortOptions>> port() {
  using namespace config;
  return {
      text<PortOptions>("id", &PortOptions::id, "the port's own name here"),
      text<PortOptions>("bus", &PortOptions::bus, "the virtio-serial device to plug into"),
      reference<PortOptions>("chardev", "chardev", &PortOptions::chardev, "the host's end"),
      text<PortOptions>("name", &PortOptions::name, "the guest finds it as /dev/virtio-ports/NAME"),
      number<PortOptions, uint16_t>("nr", &PortOptions::nr, 0, ConsoleDevice::kMostPorts - 1,
                                    "port number; unset: first free"),
  };
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-serial-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-serial-device",
                                                    with_bus_properties(own(), false));
  return table;
}

const config::PropertyTable<PortOptions>& console_port_properties() {
  static const config::PropertyTable<PortOptions> table("virtconsole", port());
  return table;
}

const config::PropertyTable<PortOptions>& serial_port_properties() {
  static const config::PropertyTable<PortOptions> table("virtserialport", port());
  return table;
}

}  // namespace ostler::virtio::console
