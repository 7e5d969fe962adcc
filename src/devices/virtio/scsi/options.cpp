// The properties of virtio-scsi, as -device knows them.
#include "devices/virtio/scsi/device.h"

namespace ostler::virtio::scsi {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {
      queues_or_auto<Options>("num_queues", &Options::num_queues, kMostRequestQueues, 0xffffffff),
      power_of_two<Options, uint16_t>("virtqueue_size", &Options::queue_size, 4, Device::kMaxQueueSize,
                                      "descriptors in a queue; a power of two"),
      number<Options, uint32_t>("max_sectors", &Options::max_sectors, 1, 0xffffffff,
                                "most that one request moves, in sectors of 512 bytes"),
      number<Options, uint32_t>("cmd_per_lun", &Options::cmd_per_lun, 1, 0xffffffff,
                                "commands that a unit takes at once"),
      boolean<Options>("hotplug", &Options::hotplug, "tell the guest of units that come and go"),
      boolean<Options>("param_change", &Options::param_change, "tell the guest when a disk changes its size"),
      settled<Options>("seg_max_adjust", {"on", "true"}, "leave it out",
                       "segments of a request follow virtqueue_size"),
      reference<Options>("iothread", "iothread", &Options::iothread, "the thread that serves all its disks"),
  };
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-scsi-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-scsi-device", with_bus_properties(own(), false));
  return table;
}

}  // namespace ostler::virtio::scsi
