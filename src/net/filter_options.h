// -object filter-dump and filter-rate: what they may be told, from text to a plain struct.
#pragma once

#include <cstdint>
#include <string>

#include "config/property.h"

namespace ostler::net {

// QEMU's names are those of the network's queues: it receives what the guest sends.
enum class FilterDirection : uint8_t { kBoth, kFromGuest, kToGuest };  // all, rx, tx

struct FilterOptions {
  std::string netdev;
  FilterDirection direction = FilterDirection::kBoth;
  bool status = true;  // off: not in use
};

struct DumpOptions : FilterOptions {
  std::string file;
  uint32_t max_length = 65536;  // bytes kept of each frame
};

struct RateOptions : FilterOptions {
  uint64_t rate = 0;   // bytes a second, in each direction; 0: not told
  uint64_t burst = 0;  // bytes that may pass at once after a pause; 0: what passes in 100 ms
};

const config::PropertyTable<DumpOptions>& dump_properties();
const config::PropertyTable<RateOptions>& rate_properties();

}  // namespace ostler::net
