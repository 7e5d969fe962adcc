// The common header of ACPI tables (ACPI 6.5 §5.2.6).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace ostler::acpi {

using Bytes = std::vector<uint8_t>;

class TableWriter {
 public:
  TableWriter(std::string_view signature, uint8_t revision);

  TableWriter& u8(uint64_t value) { return put(value, 1); }
  TableWriter& u16(uint64_t value) { return put(value, 2); }
  TableWriter& u32(uint64_t value) { return put(value, 4); }
  TableWriter& u64(uint64_t value) { return put(value, 8); }
  TableWriter& zeros(size_t count);
  TableWriter& bytes(const Bytes& bytes);
  // Generic Address Structure: space 0 memory, 1 I/O; `bytes_wide` 1, 2, 4 or 8.
  TableWriter& address(uint8_t space, unsigned bits, unsigned bytes_wide, uint64_t where);

  size_t size() const { return out_.size(); }
  Bytes finish();  // fills in length and checksum

 private:
  TableWriter& put(uint64_t value, unsigned bytes);
  Bytes out_;
};

uint8_t checksum(const uint8_t* data, size_t size);  // makes the sum of all bytes 0

}  // namespace ostler::acpi
