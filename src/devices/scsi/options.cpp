#include "devices/scsi/options.h"

#include <vector>

#include "config/word_property.h"

namespace ostler::scsi {
namespace {

using namespace config;

std::vector<Property<Options>> common() {
  std::vector<Property<Options>> all = {
      text<Options>("id", &Options::id, "the device's name"),
      text<Options>("bus", &Options::bus, "the bus to plug into: that of the controller scsi0 is scsi0.0"),
      number<Options, uint32_t>("channel", &Options::channel, 0, 0, "controllers have one"),
      number<Options, uint32_t>("scsi-id", &Options::scsi_id, 0, Options::kFirstFree,
                                "target, 0 to 255; 65535 means the first that is free"),
      number<Options, uint32_t>("lun", &Options::lun, 0, 16383, "logical unit of the target"),
      text<Options>("serial", &Options::serial, "serial number, at most 36 characters"),
      text<Options>("device_id", &Options::device_id,
                    "what identifies it to the guest, at most 36 characters; unset: the serial number"),
      text<Options>("vendor", &Options::vendor, "vendor, at most 8 characters"),
      text<Options>("product", &Options::product, "product, at most 16 characters"),
      text<Options>("ver", &Options::version, "version of the firmware, at most 4 characters"),
      number<Options, uint64_t>("wwn", &Options::wwn, 0, ~uint64_t{0}, "world wide name; 0: none"),
      number_or_unset<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, 0,
                                         "place in the boot order"),
  };
  for (auto& each : error_actions<Options>()) all.push_back(std::move(each));
  return all;
}

const PropertySchema& disk_properties() {
  static const PropertyTable<Options> table("scsi-hd", [] {
    auto all = common();
    for (auto& each : std::vector<Property<Options>>{
             reference<Options>("drive", "block node", &Options::drive, "the disk that this device shows"),
             number<Options, uint32_t>("logical_block_size", &Options::logical_block_size, 512, 32768,
                                       "bytes; a power of two"),
             number<Options, uint32_t>("physical_block_size", &Options::physical_block_size, 512, 2097152,
                                       "bytes; a power of two"),
             size<Options, uint32_t>("min_io_size", &Options::min_io_size, 1u << 25,
                                     "preferred smallest request"),
             size<Options, uint32_t>("opt_io_size", &Options::opt_io_size, 1u << 31, "preferred request"),
             size<Options, uint32_t>("discard_granularity", &Options::discard_granularity, 1u << 31,
                                     "pieces in which space is given back; 0: the guest cannot give any"),
             size<Options, uint64_t>("max_unmap_size", &Options::max_unmap_size, uint64_t{1} << 40,
                                     "most that one request gives back"),
             number<Options, uint32_t>("rotation_rate", &Options::rotation_rate, 0, 65534,
                                       "rotations per minute; 1: does not rotate"),
             boolean<Options>("dpofua", &Options::dpofua, "take writes past the cache (FUA)"),
             on_off_auto<Options>("write-cache", &Options::write_cache,
                                  "off: completed writes are on stable storage"),
             boolean<Options>("share-rw", &Options::share_rw, "let others write to the disk too")})
      all.push_back(std::move(each));
    return all;
  }());
  return table;
}

const PropertySchema& cd_properties() {
  static const PropertyTable<Options> table("scsi-cd", [] {
    auto all = common();
    all.push_back(reference<Options>("drive", "block node", &Options::drive,
                                     "the medium; without it the drive is empty"));
    return all;
  }());
  return table;
}

}  // namespace

std::span<const DeviceType> device_types() {
  static const std::vector<DeviceType> types = {
      {"scsi-hd", "SCSI", "disk", &disk_properties(), {}},
      {"scsi-cd", "SCSI", "CD-ROM drive", &cd_properties(), {}},
  };
  return types;
}

}  // namespace ostler::scsi
