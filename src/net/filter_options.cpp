#include "net/filter_options.h"

namespace ostler::net {
namespace {

template <class Options>
std::vector<config::Property<Options>> with_common(std::vector<config::Property<Options>> properties) {
  using namespace config;
  properties.push_back(
      reference<Options>("netdev", "netdev", &Options::netdev, "the network whose frames it sees"));
  properties.push_back(
      choice<Options, FilterDirection>("queue", &Options::direction, {"all", "rx", "tx"},
                                       "frames in both directions, from the guest, or to the guest"));
  properties.push_back(boolean<Options>("status", &Options::status, "whether it is in use"));
  return properties;
}

}  // namespace

const config::PropertyTable<DumpOptions>& dump_properties() {
  using namespace config;
  static const PropertyTable<DumpOptions> table(
      "filter-dump", with_common<DumpOptions>({
                         text<DumpOptions>("file", &DumpOptions::file, "the capture, in pcap format"),
                         number<DumpOptions, uint32_t>("maxlen", &DumpOptions::max_length, 1, 1u << 18,
                                                       "bytes that are kept of each frame"),
                     }));
  return table;
}

const config::PropertyTable<RateOptions>& rate_properties() {
  using namespace config;
  constexpr uint64_t kMost = uint64_t{1} << 40;
  static const PropertyTable<RateOptions> table(
      "filter-rate",
      with_common<RateOptions>({
          size<RateOptions, uint64_t>("rate", &RateOptions::rate, kMost, "bytes a second, in each direction"),
          size<RateOptions, uint64_t>("burst", &RateOptions::burst, kMost,
                                      "bytes that may pass at once after a pause"),
      }));
  return table;
}

}  // namespace ostler::net
