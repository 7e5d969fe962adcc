// The properties of virtio-balloon, as -device knows them.
#include "devices/virtio/balloon/device.h"

namespace ostler::virtio::balloon {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {
      boolean<Options>("deflate-on-oom", &Options::deflate_on_oom,
                       "the guest takes memory back rather than end programs"),
      boolean<Options>("free-page-hint", &Options::free_page_hint, "let the host ask for free pages"),
      reference<Options>("iothread", "iothread", &Options::iothread,
                         "taken, as QEMU wants one for free-page-hint; the event loop does the work"),
      boolean<Options>("free-page-reporting", &Options::free_page_reporting,
                       "let the guest report free pages, which the host takes"),
      boolean<Options>("page-poison", &Options::page_poison, "let the guest say how it fills free pages"),
      number<Options, uint32_t>("guest-stats-polling-interval", &Options::guest_stats_polling_interval, 0,
                                0x7fffffff, "seconds between questions for statistics; 0: once"),
  };
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-balloon-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-balloon-device",
                                                    with_bus_properties(own(), false));
  return table;
}

}  // namespace ostler::virtio::balloon
