// Small devices on I/O ports that -device adds: isa-debug-exit, isa-debugcon.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "bus/io_handler.h"
#include "config/property.h"
#include "devices/chipset/system_requests.h"

namespace ostler::machine {

class Backends;

struct DebugExitOptions {
  std::string id;
  uint16_t iobase = 0x501;
  uint16_t iosize = 2;
};

struct DebugConsoleOptions {
  std::string id;
  uint16_t iobase = 0xe9;
  std::string chardev;
};

std::span<const config::DeviceType> isa_device_types();

}  // namespace ostler::machine
