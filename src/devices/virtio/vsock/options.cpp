// The properties of virtio-vsock, as -device knows them.
#include "devices/virtio/vsock/device.h"

namespace ostler::virtio::vsock {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {number<Options, uint64_t>("guest-cid", &Options::guest_cid, Options::kFirstCid, Options::kLastCid,
                                    "the guest's address"),
          text<Options>("uds-path", &Options::uds_path,
                        "UNIX socket at which programs of the host reach the guest; PATH_N serves port N")};
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-vsock-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-vsock-device", with_bus_properties(own(), false));
  return table;
}

}  // namespace ostler::virtio::vsock
