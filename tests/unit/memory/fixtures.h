// What the tests of src/memory share.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "bus/io_handler.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"

namespace ostler::memory {

inline std::shared_ptr<RamBlock> ram_of(uint64_t size, std::string name = "test") {
  auto block = RamBlock::create({.name = std::move(name), .size = size});
  EXPECT_TRUE(block.has_value());
  return std::move(*block);
}

// Answers reads with the offset's low byte repeated upwards and remembers every access.
class RecordingHandler : public bus::IoHandler {
 public:
  struct Access {
    bool write;
    uint64_t offset;
    unsigned size;
    uint64_t value;
    friend bool operator==(const Access&, const Access&) = default;
  };
  std::string_view name() const override { return "recording"; }
  uint64_t io_read(uint64_t offset, unsigned size) override {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; ++i) value |= ((offset + i) & 0xff) << (i * 8);
    accesses.push_back({false, offset, size, value});
    return value;
  }
  void io_write(uint64_t offset, unsigned size, uint64_t value) override {
    accesses.push_back({true, offset, size, value});
  }
  std::vector<Access> accesses;
};

// "first-last:what" of each range, for comparing whole views.
inline std::vector<std::string> describe(const FlatView& view) {
  std::vector<std::string> lines;
  char line[96];
  for (const FlatRange& range : view.ranges()) {
    snprintf(line, sizeof line, "%lx-%lx:%s+%lx", range.first.value, range.last.value,
             range.is_ram() ? (range.read_only ? "rom" : "ram") : "io", range.offset);
    lines.emplace_back(line);
  }
  return lines;
}

using Lines = std::vector<std::string>;

}  // namespace ostler::memory
