// -m, -overcommit, -numa.

#include <fmt/format.h>

#include <algorithm>

#include "config/property.h"
#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

constexpr uint64_t kMebibyte = 1u << 20;
constexpr uint64_t kMostNodes = 128, kMostIndex = 4095;

// "3", "0-7": first and last.
Result<std::pair<unsigned, unsigned>> parse_range(const std::string& text) {
  const size_t dash = text.find('-');
  const auto first = parse_number(text.substr(0, dash));
  const auto last = dash == std::string::npos ? first : parse_number(text.substr(dash + 1));
  if (!first || !last || *last < *first || *last > kMostIndex)
    return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a number or a range like 0-3", text));
  return std::pair(static_cast<unsigned>(*first), static_cast<unsigned>(*last));
}

Result<std::optional<unsigned>> take_index(KeyValues& keys, std::string_view key, uint64_t below) {
  TRY_ASSIGN(const auto value, keys.take_number(key));
  if (!value) return std::optional<unsigned>();
  if (*value >= below) return keys.error(key, fmt::format("{} is outside 0 to {}", *value, below - 1));
  return std::optional(static_cast<unsigned>(*value));
}

Result<unsigned> need_index(KeyValues& keys, std::string_view key, uint64_t below) {
  TRY_ASSIGN(const auto value, take_index(keys, key, below));
  if (!value) return keys.error(key, "is missing");
  return *value;
}

Result<void> numa_node(QemuBuilder& b, KeyValues& keys) {
  std::vector<NumaNode>& nodes = b.machine().numa.nodes;
  TRY_ASSIGN(const auto number, take_index(keys, "nodeid", kMostNodes));
  size_t id = number.value_or(0);
  if (!number)
    while (id < nodes.size() && nodes[id].given) ++id;
  if (id >= kMostNodes) return keys.error("nodeid", fmt::format("there are at most {} nodes", kMostNodes));
  if (id >= nodes.size()) nodes.resize(id + 1);
  NumaNode& node = nodes[id];
  if (node.given) return keys.error("nodeid", fmt::format("node {} is given already", id));
  node.given = true;
  node.origin = keys.origin();
  TRY_ASSIGN(const auto memory, keys.take_size("mem", kMebibyte));
  node.memory = memory.value_or(0);
  if (node.memory % 4096 != 0) return keys.error("mem", "is not a multiple of 4096 bytes");
  node.memdev = keys.take("memdev").value_or("");
  if (node.memory != 0 && !node.memdev.empty())
    return keys.error("mem", "memdev gives the node its memory; leave mem out");
  for (const std::string& text : keys.take_all("cpus")) {
    const auto range = parse_range(text);
    if (!range) return keys.error("cpus", range.error().message());
    node.cpus.push_back(*range);
  }
  TRY_ASSIGN(const auto initiator, keys.take_number("initiator"));
  if (initiator)
    return keys.error("initiator",
                      "heterogeneous memory (HMAT) is not available in this version; leave it out, and say "
                      "by -numa dist how far memory is");
  return keys.finish();
}

Result<void> numa_distance(QemuBuilder& b, KeyValues& keys) {
  NumaDistance distance;
  distance.origin = keys.origin();
  TRY_ASSIGN(distance.from, need_index(keys, "src", kMostNodes));
  TRY_ASSIGN(distance.to, need_index(keys, "dst", kMostNodes));
  TRY_ASSIGN(const unsigned value, need_index(keys, "val", 256));
  distance.value = static_cast<uint8_t>(value);
  b.machine().numa.distances.push_back(std::move(distance));
  return keys.finish();
}

Result<void> numa_cpu(QemuBuilder& b, KeyValues& keys) {
  NumaCpu cpu;
  cpu.origin = keys.origin();
  TRY_ASSIGN(cpu.node, need_index(keys, "node-id", kMostNodes));
  TRY_ASSIGN(cpu.socket, take_index(keys, "socket-id", kMostIndex));
  TRY_ASSIGN(cpu.die, take_index(keys, "die-id", kMostIndex));
  TRY_ASSIGN(cpu.core, take_index(keys, "core-id", kMostIndex));
  TRY_ASSIGN(cpu.thread, take_index(keys, "thread-id", kMostIndex));
  b.machine().numa.cpus.push_back(std::move(cpu));
  return keys.finish();
}

}  // namespace

Result<void> option_memory(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-m", value, "size"));
  TRY_ASSIGN(const auto size, keys.take_size("size", kMebibyte));
  TRY_ASSIGN(const auto slots, keys.take_number("slots"));
  TRY_ASSIGN(const auto maxmem, keys.take_size("maxmem", kMebibyte));
  TRY(keys.finish());
  if (slots.value_or(0) != 0 || (maxmem && size && *maxmem != *size))
    return keys.error("maxmem", "memory hotplug is not available in this version; give the size alone");
  if (!size) return {};
  if (*size == 0) {  // as if it were not given
    b.machine().memory_bytes = Machine{}.memory_bytes;
    b.memory_given = false;
    return {};
  }
  if (*size < kMebibyte) return keys.error("size", "a guest needs at least 1M");
  b.machine().memory_bytes = *size & ~uint64_t{0xfff};
  b.memory_given = true;
  return {};
}

Result<void> option_overcommit(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-overcommit", value, ""));
  TRY_ASSIGN(const auto lock, keys.take_bool("mem-lock"));
  TRY_ASSIGN(const auto pm, keys.take_bool("cpu-pm"));
  if (lock) b.machine().memory_lock = *lock;
  if (pm.value_or(false))
    return keys.error("cpu-pm",
                      "is not available in this version: idle vCPUs always give the host's processor back");
  return keys.finish();
}

Result<void> option_numa(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-numa", value, "type"));
  const std::string type = keys.take("type").value_or("");
  if (type == "node") return numa_node(b, keys);
  if (type == "dist") return numa_distance(b, keys);
  if (type == "cpu") return numa_cpu(b, keys);
  if (type == "hmat-lb" || type == "hmat-cache")
    return keys.error("type",
                      "heterogeneous memory (HMAT) is not available in this version; leave it out, and say "
                      "by -numa dist how far memory is");
  return keys.error("type", fmt::format("'{}' is none of node, dist, cpu", type));
}

Result<void> QemuBuilder::size_memory() {
  if (memory_given) return {};
  std::string_view backend;
  for (const KeyValue& pair : machine().machine_properties)
    if (pair.key == "memory-backend") backend = pair.value;
  uint64_t sum = 0;
  const auto add = [&](std::string_view id) -> Result<void> {
    for (const Object& object : machine().objects) {
      if (object.id != id) continue;
      for (const KeyValue& pair : object.properties) {
        if (pair.key != "size") continue;
        const auto size = parse_size(pair.value);
        if (!size)
          return Error(ErrorKind::kInvalidArgument, object.origin + ": size: " + size.error().message());
        sum += *size;
      }
    }
    return {};
  };
  if (!backend.empty()) {
    TRY(add(backend));
  } else {
    for (const NumaNode& node : machine().numa.nodes) TRY(add(node.memdev));
  }
  if (sum != 0) machine().memory_bytes = sum;
  return {};
}

}  // namespace ostler::config
