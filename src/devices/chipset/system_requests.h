// What chips ask of the machine as a whole: the wires that leave the board.
#pragma once

#include <cstdint>
#include <string_view>

namespace ostler::chipset {

// Any thread, with the device's lock held: the machine notes the request and acts on it later, on its own
// thread. The caller returns to the guest meanwhile. `source` names the register, for the log ("port 0x92",
// "acpi").
class SystemRequests {
 public:
  virtual ~SystemRequests() = default;
  virtual void request_reset(std::string_view source) = 0;
  virtual void request_shutdown(std::string_view source) = 0;  // ACPI S5
  virtual void guest_panicked(std::string_view source) = 0;
  virtual void debug_exit(int code) = 0;  // the process is to end with `code`
};

}  // namespace ostler::chipset
