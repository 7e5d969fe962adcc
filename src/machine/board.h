// A machine type: the chips around the core, their wiring, and what firmware or a kernel is told about them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "acpi/tables.h"
#include "base/result.h"
#include "state/archive.h"

namespace ostler::machine {

class Board {
 public:
  virtual ~Board() = default;
  // ---- control thread, vCPUs paused ----
  virtual void reset() = 0;
  virtual void state(state::Archive& archive) = 0;
  virtual acpi::Description acpi() const = 0;
  // ---- control thread, any time ----
  virtual void press_power_button() = 0;
};

}  // namespace ostler::machine
