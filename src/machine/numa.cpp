#include "machine/numa.h"

#include <fmt/format.h>

#include <algorithm>

#include "x86/cpu_model.h"

namespace ostler::machine {
namespace {

constexpr uint8_t kLocal = 10, kRemote = 20;  // ACPI 6.5 §5.2.17

Error error_at(const std::string& origin, const std::string& text) {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", origin, text));
}

bool fits(std::optional<unsigned> wanted, unsigned value) {
  return !wanted || *wanted == value;
}

}  // namespace

Result<NumaTopology> NumaTopology::plan(const config::Machine& config) {
  NumaTopology numa;
  const config::Numa& wish = config.numa;
  for (size_t i = 0; i < wish.nodes.size(); ++i) {
    const config::NumaNode& node = wish.nodes[i];
    if (!node.given)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-numa: there is a node {} and none {}; number them from 0 without gaps",
                               wish.nodes.size() - 1, i));
    numa.nodes.push_back({.memory = node.memory, .memdev = node.memdev});
  }
  TRY(numa.place_vcpus(config));
  TRY(numa.measure(config));
  return numa;
}

Result<void> NumaTopology::place_vcpus(const config::Machine& config) {
  const config::Numa& wish = config.numa;
  constexpr unsigned kNowhere = ~0u;
  node_of.assign(config.max_cpus, kNowhere);
  const auto put = [&](unsigned cpu, unsigned node, const std::string& origin) -> Result<void> {
    if (node >= nodes.size()) return error_at(origin, fmt::format("there is no node {}", node));
    if (cpu >= node_of.size())
      return error_at(origin, fmt::format("there is no vCPU {}: -smp gives {}", cpu, node_of.size()));
    if (node_of[cpu] != kNowhere && node_of[cpu] != node)
      return error_at(origin, fmt::format("vCPU {} is in node {} already", cpu, node_of[cpu]));
    node_of[cpu] = node;
    return {};
  };
  for (unsigned node = 0; node < wish.nodes.size(); ++node)
    for (const auto& [first, last] : wish.nodes[node].cpus)
      for (unsigned cpu = first; cpu <= last; ++cpu) TRY(put(cpu, node, wish.nodes[node].origin));
  const x86::Topology topology{
      .sockets = config.sockets, .dies = config.dies, .cores = config.cores, .threads = config.threads};
  for (const config::NumaCpu& cpu : wish.cpus) {
    bool found = false;
    for (unsigned i = 0; i < config.max_cpus; ++i) {
      const x86::Topology::Place place = topology.place_of(i);
      if (!fits(cpu.socket, place.socket) || !fits(cpu.die, place.die) || !fits(cpu.core, place.core) ||
          !fits(cpu.thread, place.thread))
        continue;
      found = true;
      TRY(put(i, cpu.node, cpu.origin));
    }
    if (!found) return error_at(cpu.origin, "-smp gives no such vCPU");
  }
  if (nodes.empty()) return {};
  // Without a word about vCPUs a socket belongs to one node; those that were forgotten belong to the first.
  const bool none =
      std::all_of(node_of.begin(), node_of.end(), [](unsigned node) { return node == kNowhere; });
  std::vector<unsigned> forgotten;
  for (unsigned i = 0; i < node_of.size(); ++i) {
    if (node_of[i] != kNowhere) continue;
    node_of[i] = none ? topology.place_of(i).socket % static_cast<unsigned>(nodes.size()) : 0;
    if (!none) forgotten.push_back(i);
  }
  if (!forgotten.empty())
    warnings.push_back(
        fmt::format("-numa: vCPUs {} are in no node and go to node 0", fmt::join(forgotten, ", ")));
  return {};
}

Result<void> NumaTopology::measure(const config::Machine& config) {
  const size_t count = nodes.size();
  if (config.numa.distances.empty()) return {};
  distances.assign(count * count, 0);
  bool symmetric = true;
  for (const config::NumaDistance& each : config.numa.distances) {
    if (each.from >= count || each.to >= count)
      return error_at(each.origin, fmt::format("there is no node {}", std::max(each.from, each.to)));
    if (each.from == each.to ? each.value != kLocal : each.value <= kLocal)
      return error_at(each.origin,
                      each.from == each.to
                          ? fmt::format("a node's distance to itself is {}", kLocal)
                          : fmt::format("the distance to another node is more than {}, up to 255", kLocal));
    distances[each.from * count + each.to] = each.value;
  }
  for (size_t a = 0; a < count; ++a)
    for (size_t b = 0; b < count; ++b)
      if (distances[a * count + b] != 0 && distances[b * count + a] != 0 &&
          distances[a * count + b] != distances[b * count + a])
        symmetric = false;
  for (size_t a = 0; a < count; ++a) {
    distances[a * count + a] = kLocal;
    for (size_t b = 0; b < a; ++b) {
      uint8_t &there = distances[a * count + b], &back = distances[b * count + a];
      if (there != 0 && back != 0) continue;
      if (there == 0 && back == 0) {
        there = back = kRemote;
      } else if (symmetric) {
        there = back = std::max(there, back);
      } else {
        const auto [from, to] = there == 0 ? std::pair(a, b) : std::pair(b, a);
        return Error(
            ErrorKind::kInvalidArgument,
            fmt::format("-numa dist: the distance from node {} to {} is missing: where some differ by "
                        "direction, give both",
                        from, to));
      }
    }
  }
  return {};
}

Result<void> NumaTopology::share_memory(const config::Machine& config) {
  if (nodes.empty()) return {};
  uint64_t sum = 0;
  bool any_memdev = false, all_memdev = true;
  for (const Node& node : nodes) {
    sum += node.memory;
    any_memdev |= !node.memdev.empty();
    all_memdev &= !node.memdev.empty() || node.memory == 0;
  }
  if (any_memdev && !all_memdev)
    return Error(ErrorKind::kInvalidArgument, "-numa: give memdev for each node with memory, or for none");
  if (sum == 0) {
    const uint64_t share = config.memory_bytes / nodes.size() & ~((uint64_t{8} << 20) - 1);
    for (Node& node : nodes) node.memory = share;
    nodes.back().memory += config.memory_bytes - share * nodes.size();
    return {};
  }
  if (sum != config.memory_bytes)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-numa: the nodes have {} MiB together and -m gives {} MiB; make them equal",
                             sum >> 20, config.memory_bytes >> 20));
  return {};
}

}  // namespace ostler::machine
