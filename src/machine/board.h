// A machine type: the chips around the core, their wiring, and what firmware or a kernel is told about them.
#pragma once

#include <memory>

#include "acpi/tables.h"
#include "base/result.h"
#include "devices/virtio/device.h"
#include "state/archive.h"

namespace ostler::event {
class Loop;
}
namespace ostler::ide {
class PiixIde;
}
namespace ostler::pci {
class Bus;
}

namespace ostler::machine {

class Board {
 public:
  virtual ~Board() = default;

  // ---- while the machine is built ----
  virtual pci::Bus* pci() = 0;                     // null: the machine has none
  virtual ide::PiixIde* ide() { return nullptr; }  // null: the machine has none
  // Puts `device` into the next virtio-mmio slot. kUnsupported: no such slots here; kNoResource: all taken.
  // `doorbells`: where its notifications may be served (virtio::Mmio::serve_on); null: on the vCPUs' threads.
  virtual Result<void> plug_mmio(std::unique_ptr<virtio::Device> device, event::Loop* doorbells) = 0;

  // ---- control thread, vCPUs paused ----
  virtual void reset() = 0;
  virtual void quiesce() = 0;  // no request of a device is in flight afterwards
  virtual void state(state::Archive& archive) = 0;
  virtual acpi::Description acpi() const = 0;

  // ---- control thread, any time ----
  virtual void press_power_button() = 0;
};

}  // namespace ostler::machine
