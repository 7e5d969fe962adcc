// The properties of vhost-user-fs, as -device knows them.
#include "devices/virtio/fs/device.h"

namespace ostler::virtio::fs {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {
      reference<Options>("chardev", "character back end", &Options::chardev,
                         "the socket of virtiofsd: -chardev socket,path=…"),
      text<Options>("tag", &Options::tag, "the name by which the guest mounts it, at most 36 bytes"),
      number_or_unset<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, 0,
                                         "place in the boot order"),
      number<Options, uint16_t>("queue-size", &Options::queue_size, 2, Device::kMaxQueueSize,
                                "descriptors in a queue, a power of two"),
      number<Options, uint16_t>("num-request-queues", &Options::num_request_queues, 1, Device::kMaxQueues - 1,
                                "queues for requests"),
  };
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("vhost-user-fs-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("vhost-user-fs-device",
                                                    with_bus_properties(own(), false));
  return table;
}

}  // namespace ostler::virtio::fs
