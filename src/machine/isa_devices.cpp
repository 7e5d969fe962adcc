#include "machine/isa_devices.h"

namespace ostler::machine {
namespace {

const config::PropertySchema& debug_exit_properties() {
  using Options = DebugExitOptions;
  static const config::PropertyTable<Options> table(
      "isa-debug-exit",
      {config::text<Options>("id", &Options::id, "the device's name"),
       config::number<Options, uint16_t>("iobase", &Options::iobase, 0, 0xffff, "first port"),
       config::number<Options, uint16_t>("iosize", &Options::iosize, 1, 4, "number of ports")});
  return table;
}

const config::PropertySchema& debug_console_properties() {
  using Options = DebugConsoleOptions;
  static const config::PropertyTable<Options> table(
      "isa-debugcon", {config::text<Options>("id", &Options::id, "the device's name"),
                       config::number<Options, uint16_t>("iobase", &Options::iobase, 0, 0xffff, "port"),
                       config::reference<Options>("chardev", "character back end", &Options::chardev,
                                                  "where the text goes")});
  return table;
}

}  // namespace

std::span<const config::DeviceType> isa_device_types() {
  static const std::vector<config::DeviceType> types = {
      {"isa-debug-exit", "ISA", "ends the program with (value << 1) | 1", &debug_exit_properties(), {}},
      {"isa-debugcon", "ISA", "debug text port", &debug_console_properties(), {}},
  };
  return types;
}

}  // namespace ostler::machine
