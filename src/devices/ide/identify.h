// The sector of 256 words with which a drive describes itself (ACS-2 §7.12, ATA/ATAPI-7 §6.17).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/bytes.h"

namespace ostler::ide {

class IdentifyData {
 public:
  explicit IdentifyData(std::span<std::byte> sector) : sector_(sector.first(512)) {
    for (std::byte& each : sector_) each = std::byte{0};
  }
  void word(unsigned index, unsigned value) {
    sector_[2 * size_t{index}] = static_cast<std::byte>(value);
    sector_[2 * size_t{index} + 1] = static_cast<std::byte>(value >> 8);
  }
  // Low word first.
  void number(unsigned index, uint64_t value, unsigned words) {
    for (unsigned i = 0; i < words; ++i) word(index + i, static_cast<uint16_t>(value >> (16 * i)));
  }
  // Two characters a word, the first in its high byte, padded with spaces.
  void text(unsigned index, unsigned words, std::string_view text) {
    const auto at = [&](unsigned i) {
      return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{' '};
    };
    for (unsigned i = 0; i < words; ++i) word(index + i, at(2 * i) << 8 | at(2 * i + 1));
  }
  // The sum of all bytes is 0 then.
  void seal() {
    sector_[510] = std::byte{0xa5};
    unsigned sum = 0;
    for (size_t i = 0; i < 511; ++i) sum += std::to_integer<unsigned>(sector_[i]);
    sector_[511] = static_cast<std::byte>(0x100 - (sum & 0xff));
  }

 private:
  std::span<std::byte> sector_;
};

}  // namespace ostler::ide
