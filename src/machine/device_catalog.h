// Every type that -device knows: its properties and how it is made.
#pragma once

#include <any>
#include <span>
#include <string>

#include "base/result.h"
#include "config/machine.h"
#include "config/property.h"

namespace ostler::machine {

class Backends;
class Board;
class Core;

struct PlugContext {
  Core& core;
  Backends& backends;
  Board& board;
  std::string user;  // the option as written, for messages
  void* virtio_serial = nullptr;  // the latest virtio-serial device, for its ports
};

struct DeviceEntry {
  config::DeviceType type;
  Result<void> (*plug)(PlugContext& context, const std::any& options);
};

std::span<const DeviceEntry> device_catalog();

// -device help, -device TYPE,help. kNotFound names the nearest type.
Result<std::string> device_help(const std::string& type);

// Makes one device and plugs it in.
Result<void> plug_device(const config::Device& device, PlugContext& context);

}  // namespace ostler::machine
