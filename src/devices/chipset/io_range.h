// For chips with several ranges of registers, and for chips whose bus is eight bits wide.
#pragma once

#include <cstdint>
#include <string_view>

#include "bus/io_handler.h"

namespace ostler::chipset {

// Forwards one range to two member functions of its chip.
template <class Chip>
class IoRange final : public bus::IoHandler {
 public:
  using Read = uint64_t (Chip::*)(uint64_t offset, unsigned size);
  using Write = void (Chip::*)(uint64_t offset, unsigned size, uint64_t value);

  IoRange(std::string_view name, Chip& chip, Read read, Write write)
      : name_(name), chip_(chip), read_(read), write_(write) {}
  std::string_view name() const override { return name_; }
  uint64_t io_read(uint64_t offset, unsigned size) override { return (chip_.*read_)(offset, size); }
  void io_write(uint64_t offset, unsigned size, uint64_t value) override {
    (chip_.*write_)(offset, size, value);
  }

 private:
  std::string_view name_;
  Chip& chip_;
  Read read_;
  Write write_;
};

// A wide access to an 8-bit chip is one bus cycle for each byte, lowest address first, as the ISA bridge
// makes it.
template <class ReadByte>
uint64_t read_bytes(uint64_t offset, unsigned size, ReadByte&& read_byte) {
  uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) value |= static_cast<uint64_t>(read_byte(offset + i) & 0xff) << (8 * i);
  return value;
}
template <class WriteByte>
void write_bytes(uint64_t offset, unsigned size, uint64_t value, WriteByte&& write_byte) {
  for (unsigned i = 0; i < size; ++i) write_byte(offset + i, static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace ostler::chipset
