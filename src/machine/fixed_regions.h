// Chips at fixed places of the port and memory spaces: owns their regions.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory/address_space.h"

namespace ostler::machine {

class FixedRegions {
 public:
  explicit FixedRegions(memory::AddressSpace& space) : space_(space) {}

  void add(const std::string& name, bus::IoHandler& handler, uint64_t at, uint64_t size, int priority = 0,
           unsigned max_access = 8) {
    regions_.push_back(std::make_unique<memory::IoRegion>(name, handler, size, max_access));
    memory::Transaction(space_).add(space_.root(), at, *regions_.back(), priority);
  }

 private:
  memory::AddressSpace& space_;
  std::vector<std::unique_ptr<memory::IoRegion>> regions_;
};

}  // namespace ostler::machine
