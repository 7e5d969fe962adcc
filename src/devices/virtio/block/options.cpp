// The properties of virtio-blk, as -device knows them.
#include "config/word_property.h"
#include "devices/virtio/block/device.h"

namespace ostler::virtio::block {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  std::vector<Property<Options>> all = {
      reference<Options>("drive", "block node", &Options::drive, "the disk that this device shows"),
      text<Options>("serial", &Options::serial, "serial number, at most 20 characters"),
      power_of_two<Options, uint32_t>("logical_block_size", &Options::logical_block_size, 512, 32768,
                                      "bytes; a power of two"),
      power_of_two<Options, uint32_t>("physical_block_size", &Options::physical_block_size, 512, 2097152,
                                      "bytes; a power of two"),
      size<Options, uint32_t>("min_io_size", &Options::min_io_size, 1u << 25, "preferred smallest request"),
      size<Options, uint32_t>("opt_io_size", &Options::opt_io_size, 1u << 31, "preferred request"),
      power_of_two<Options, uint16_t>("queue-size", &Options::queue_size, 4, Device::kMaxQueueSize,
                                      "descriptors in a queue; a power of two"),
      queues_or_auto<Options>("num-queues", &Options::num_queues, Device::kMaxQueues, 0xffff),
      boolean<Options>("discard", &Options::discard, "let the guest give space back"),
      boolean<Options>("write-zeroes", &Options::write_zeroes,
                       "let the guest zero ranges without sending zeros"),
      size<Options, uint32_t>("discard_granularity", &Options::discard_granularity, 1u << 31,
                              "bytes in which the guest best gives space back; 0: the disk's own"),
      number_or_unset<Options, uint32_t>("max-discard-sectors", &Options::max_discard_sectors, 1,
                                         kMaxRangeSectors, kMaxRangeSectors,
                                         "sectors of 512 bytes that a request gives back"),
      number_or_unset<Options, uint32_t>("max-write-zeroes-sectors", &Options::max_write_zeroes_sectors, 1,
                                         kMaxRangeSectors, kMaxRangeSectors,
                                         "sectors of 512 bytes that a request zeroes"),
      settled<Options>("scsi", {"off", "false"}, "say virtio-scsi-pci with scsi-hd for SCSI commands",
                       "SCSI commands, of virtio 0.9.5"),
      settled<Options>("request-merging", {"on", "off", "true", "false"}, "leave it out",
                       "nothing: up to the host"),
      settled<Options>("seg-max-adjust", {"on", "true"}, "leave it out",
                       "segments of a request follow queue-size"),
      boolean<Options>("config-wce", &Options::config_wce, "let the guest turn the write cache on and off"),
      on_off_auto<Options>("write-cache", &Options::write_cache,
                           "off: completed writes are on stable storage"),
      boolean<Options>("share-rw", &Options::share_rw, "let others write to the disk too"),
      reference<Options>("iothread", "iothread", &Options::iothread, "the thread that serves all queues"),
      text<Options>("iothread-vq-mapping", &Options::iothread_vq_mapping,
                    "threads of the queues: a list, with -device in JSON"),
      number_or_unset<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, 0,
                                         "place in the boot order"),
  };
  for (auto& each : error_actions<Options>()) all.push_back(std::move(each));
  return all;
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-blk-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-blk-device", with_bus_properties(own(), false));
  return table;
}

}  // namespace ostler::virtio::block
