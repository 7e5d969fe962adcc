// Registers that keep what is written, and nothing else, until another access to the device: a write may then
// come late, together with others, as long as it comes before whatever else the guest does that leaves guest
// code. An accelerator may have the kernel collect them, so that the vCPU goes on at once.
#pragma once

#include <cstdint>
#include <span>

namespace ostler::bus {

struct LateRange {
  uint64_t offset = 0;  // as io_write() gets it
  uint32_t size = 0;    // bytes
};

// An IoHandler that has some is this too.
class LateWrites {
 public:
  virtual ~LateWrites() = default;
  // While the handler is in a tree, always the same.
  virtual std::span<const LateRange> late_writes() const = 0;
};

}  // namespace ostler::bus
