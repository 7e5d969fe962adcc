// The guest's NUMA nodes: which vCPUs and how much memory each has, and how far they are from each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "acpi/tables.h"
#include "base/result.h"
#include "config/machine.h"

namespace ostler::machine {

struct NumaTopology {
  struct Node {
    uint64_t memory = 0;  // bytes
    std::string memdev;   // the object they come from; empty: the machine's own
  };
  std::vector<Node> nodes;         // by their numbers; empty: the guest is told of none
  std::vector<unsigned> node_of;   // per vCPU
  std::vector<uint8_t> distances;  // nodes * nodes, from row to column; empty: not told
  std::vector<std::string> warnings;

  // Nodes' memory in bytes, as objects have it, is the caller's to know: `memdev_size` gives it for an id, or
  // an error. Errors begin with the option.
  template <class SizeOf>
  static Result<NumaTopology> create(const config::Machine& config, SizeOf memdev_size) {
    TRY_ASSIGN(NumaTopology numa, plan(config));
    for (size_t i = 0; i < numa.nodes.size(); ++i) {
      Node& node = numa.nodes[i];
      if (node.memdev.empty()) continue;
      auto size = memdev_size(node.memdev);
      if (!size) return std::move(size).error().with_context(config.numa.nodes[i].origin);
      node.memory = *size;
    }
    TRY(numa.share_memory(config));
    return numa;
  }

 private:
  static Result<NumaTopology> plan(const config::Machine& config);
  Result<void> place_vcpus(const config::Machine& config);
  Result<void> measure(const config::Machine& config);
  Result<void> share_memory(const config::Machine& config);
};

}  // namespace ostler::machine
