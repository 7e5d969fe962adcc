// What both machine types share of a PC's legacy: serial ports and the clock's start.
#pragma once

#include <memory>
#include <vector>

#include "acpi/tables.h"
#include "base/result.h"
#include "config/machine.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/uart.h"
#include "memory/region.h"

namespace ostler::machine {

class Backends;
class Core;

// COM1..COM4 as -serial asks for them.
class SerialPorts {
 public:
  static Result<std::unique_ptr<SerialPorts>> create(Core& core, Backends& backends,
                                                     chipset::IrqRouter& router);
  void reset();
  void state(state::Archive& archive);
  std::vector<acpi::Description::Serial> acpi() const;

 private:
  struct Port {
    unsigned number;
    std::unique_ptr<chipset::Uart> uart;
    std::unique_ptr<memory::IoRegion> region;
  };
  std::vector<std::unique_ptr<chipset::WiredOr>>
      shared_irqs_;  // IRQ 4 for COM1 and COM3, IRQ 3 for COM2 and COM4
  std::vector<Port> ports_;
};

// Seconds since 1970 that the RTC shows at the start, in local time if -rtc says so.
Result<int64_t> rtc_start_seconds(const config::Machine& config);

}  // namespace ostler::machine
