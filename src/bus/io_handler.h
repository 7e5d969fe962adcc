// What answers reads and writes of a range of guest-physical memory or of I/O ports.
#pragma once

#include <cstdint>
#include <string_view>

namespace ostler::bus {

// Called from any vCPU thread, several at once: the implementation takes its own lock. Offsets are relative
// to the range, so a device never learns its address. An access never leaves the range.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  virtual std::string_view name() const = 0;
  // `size` is 1, 2, 4 or 8 bytes; `offset` may be unaligned. The result is zero-extended.
  virtual uint64_t io_read(uint64_t offset, unsigned size) = 0;
  virtual void io_write(uint64_t offset, unsigned size, uint64_t value) = 0;
};

}  // namespace ostler::bus
