// The guest's RAM: one block, or one for each memory backend that its NUMA nodes name, in the order of the
// nodes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "acpi/tables.h"
#include "base/result.h"
#include "config/machine.h"
#include "machine/memory_layout.h"
#include "machine/numa.h"
#include "machine/properties.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"

namespace ostler::machine {

class GuestRam {
 public:
  // Takes what is to be taken in advance, and locks. Errors begin with the option.
  static Result<GuestRam> create(const config::Machine& config, const MachineProperties& properties,
                                 std::vector<std::string>& warnings);

  // Regions where the guest sees them, low RAM and high RAM. The space must not outlive this.
  void map(const MemoryLayout& layout, memory::AddressSpace& space);
  const std::vector<std::shared_ptr<memory::RamBlock>>& blocks() const { return blocks_; }
  // For SRAT and SLIT; empty without -numa.
  acpi::Numa numa(const MemoryLayout& layout) const;

 private:
  NumaTopology numa_;
  std::vector<std::shared_ptr<memory::RamBlock>> blocks_;
  std::vector<std::unique_ptr<memory::RamRegion>> regions_;
};

}  // namespace ostler::machine
