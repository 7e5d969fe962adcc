// The "pc" machine: an i440fx-shaped PC with PCI, the chips of a PIIX southbridge and ISA devices.
#pragma once

#include <memory>

#include "base/result.h"
#include "devices/chipset/system_requests.h"
#include "machine/board.h"

namespace ostler::machine {

class Backends;
class Core;

class PcBoard {
 public:
  static Result<std::unique_ptr<Board>> create(Core& core, Backends& backends,
                                               chipset::SystemRequests& requests);
};

}  // namespace ostler::machine
