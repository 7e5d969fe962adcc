// The properties of virtio-9p, as -device knows them.
#include "devices/virtio/p9/device.h"

namespace ostler::virtio::p9 {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {
      reference<Options>("fsdev", "shared folder", &Options::fsdev, "what it shows: an -fsdev"),
      text<Options>("mount_tag", &Options::mount_tag,
                    "the name by which the guest mounts it, at most 36 bytes"),
  };
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-9p-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-9p-device", with_bus_properties(own(), false));
  return table;
}

}  // namespace ostler::virtio::p9
