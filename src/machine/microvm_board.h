// The "microvm" machine: no firmware, no PCI unless asked for, no legacy timers and interrupt controllers.
// Local APICs, an I/O APIC, serial ports, virtio-mmio slots, and hardware-reduced ACPI.
#pragma once

#include <memory>

#include "base/result.h"
#include "devices/chipset/system_requests.h"
#include "machine/board.h"

namespace ostler::machine {

class Backends;
class Core;

class MicrovmBoard {
 public:
  static Result<std::unique_ptr<Board>> create(Core& core, Backends& backends,
                                               chipset::SystemRequests& requests);
};

}  // namespace ostler::machine
