#include "devices/ide/options.h"

#include <vector>

#include "config/word_property.h"

namespace ostler::ide {
namespace {

using namespace config;

std::vector<Property<Options>> common() {
  std::vector<Property<Options>> all = {
      text<Options>("id", &Options::id, "the device's name"),
      text<Options>("bus", &Options::bus, "ide.0 or ide.1"),
      number<Options, uint32_t>("unit", &Options::unit, 0, 1,
                                "place on the bus; 2 means the first that is free"),
      text<Options>("serial", &Options::serial, "serial number, at most 20 characters"),
      text<Options>("model", &Options::model, "model, at most 40 characters"),
      text<Options>("ver", &Options::version, "version of the firmware, at most 8 characters"),
      number_or_unset<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, 0,
                                         "place in the boot order"),
  };
  for (auto& each : error_actions<Options>()) all.push_back(std::move(each));
  return all;
}

const PropertySchema& disk_properties() {
  static const PropertyTable<Options> table("ide-hd", [] {
    auto all = common();
    all.push_back(
        reference<Options>("drive", "block node", &Options::drive, "the disk that this device shows"));
    all.push_back(number<Options, uint32_t>("physical_block_size", &Options::physical_block_size, 512, 65536,
                                            "bytes; a power of two"));
    all.push_back(number<Options, uint32_t>("rotation_rate", &Options::rotation_rate, 0, 65534,
                                            "rotations per minute; 1: does not rotate"));
    all.push_back(number<Options, uint64_t>("wwn", &Options::wwn, 0, ~uint64_t{0}, "world wide name"));
    all.push_back(boolean<Options>("share-rw", &Options::share_rw, "let others write to the disk too"));
    all.push_back(boolean<Options>("discard", &Options::discard, "let the guest give space back (TRIM)"));
    return all;
  }());
  return table;
}

const PropertySchema& cd_properties() {
  static const PropertyTable<Options> table("ide-cd", [] {
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
      {"ide-hd", "IDE", "disk", &disk_properties(), {}},
      {"ide-cd", "IDE", "CD-ROM drive", &cd_properties(), {}},
  };
  return types;
}

}  // namespace ostler::ide
