// Registers whose writes only tell that there is work: an accelerator may have the kernel signal an eventfd
// in place of calling io_write(), so that the vCPU goes on at once.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace ostler::bus {

struct Doorbell {
  uint64_t offset = 0;            // as io_write() gets it
  std::optional<uint32_t> value;  // only 4-byte writes of this value; none: writes of any size and value
  int fd = -1;                    // the eventfd
};

// An IoHandler that has some is this too.
class Doorbells {
 public:
  virtual ~Doorbells() = default;
  // While the handler is in a memory tree, always the same.
  virtual std::span<const Doorbell> doorbells() const = 0;
};

}  // namespace ostler::bus
