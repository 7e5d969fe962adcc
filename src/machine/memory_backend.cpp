#include "machine/memory_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "config/key_values.h"
#include "config/property.h"

namespace ostler::machine {
namespace {

using config::KeyValues;

// "0", "0-3", several times.
Result<void> take_host_nodes(KeyValues& keys, std::vector<unsigned>& nodes) {
  constexpr uint64_t kBelow = 1024;
  for (const std::string& text : keys.take_all("host-nodes")) {
    const size_t dash = text.find('-');
    const auto first = config::parse_number(text.substr(0, dash));
    const auto last = dash == std::string::npos ? first : config::parse_number(text.substr(dash + 1));
    if (!first || !last || *last < *first || *last >= kBelow)
      return keys.error("host-nodes", fmt::format("'{}' is not a number or a range like 0-1", text));
    for (uint64_t node = *first; node <= *last; ++node) nodes.push_back(static_cast<unsigned>(node));
  }
  return {};
}

Result<void> take_flag(KeyValues& keys, std::string_view key, bool& flag) {
  TRY_ASSIGN(const auto value, keys.take_bool(key));
  if (value) flag = *value;
  return {};
}

// What this version does not have must be off.
Result<void> refuse_flag(KeyValues& keys, std::string_view key) {
  bool wanted = false;
  TRY(take_flag(keys, key, wanted));
  if (wanted) return keys.error(key, "is not available in this version; leave it out");
  return {};
}

Result<void> take_memfd(KeyValues& keys, memory::RamOptions& options, std::vector<std::string>& warnings) {
  options.backing = memory::Backing::kMemfd;
  TRY(take_flag(keys, "hugetlb", options.huge));
  TRY(take_flag(keys, "seal", options.seal));
  TRY_ASSIGN(const auto size, keys.take_size("hugetlbsize", 1));
  if (options.huge)
    options.huge_size = size.value_or(0);
  else if (size && *size != 0)
    warnings.push_back(keys.origin() +
                       ": hugetlbsize says nothing without hugetlb=on, which asks for huge pages");
  return {};
}

Result<void> take_file(KeyValues& keys, memory::RamOptions& options) {
  options.backing = memory::Backing::kFile;
  options.path = keys.take("mem-path").value_or("");
  if (options.path.empty()) return keys.error("mem-path", "is missing: a file, or a folder for one");
  TRY_ASSIGN(const auto align, keys.take_size("align", 1));
  TRY_ASSIGN(const auto offset, keys.take_size("offset", 1));
  options.align = align.value_or(0);
  options.offset = offset.value_or(0);
  for (const std::string_view key : {"pmem", "readonly", "rom", "discard-data"}) TRY(refuse_flag(keys, key));
  return {};
}

}  // namespace

unsigned usual_prealloc_threads() {
  constexpr unsigned kMost = 16;
  return std::clamp(std::thread::hardware_concurrency(), 1u, kMost);
}

Result<MemoryBackend> MemoryBackend::parse(const config::Object& object, const MachineProperties& properties,
                                           std::vector<std::string>& warnings) {
  using memory::HostPolicy;
  KeyValues keys = KeyValues::from(object.origin, object.properties);
  MemoryBackend backend;
  memory::RamOptions& options = backend.options;
  options.name = object.id;
  options.merge = properties.mem_merge;
  options.dump = properties.dump_guest_core;
  options.share = object.type == "memory-backend-memfd";
  TRY_ASSIGN(const auto size, keys.take_size("size", 1));
  if (!size || *size == 0) return keys.error("size", "is missing");
  options.size = *size;
  TRY(take_flag(keys, "share", options.share));
  TRY(take_flag(keys, "merge", options.merge));
  TRY(take_flag(keys, "dump", options.dump));
  TRY_ASSIGN(const auto reserve, keys.take_bool("reserve"));
  options.reserve = reserve.value_or(options.reserve);
  options.overcommit = reserve == false;
  bool prealloc = false, canonical = false;
  TRY(take_flag(keys, "prealloc", prealloc));
  TRY(take_flag(keys, "x-use-canonical-path-for-ramblock-id", canonical));  // a name in migration streams
  TRY_ASSIGN(const auto threads, keys.take_number("prealloc-threads"));
  if (threads && (*threads == 0 || *threads > 1024))
    return keys.error("prealloc-threads", fmt::format("{} is outside 1 to 1024", *threads));
  if (keys.take("prealloc-context"))
    return keys.error(
        "prealloc-context",
        "is not available in this version; leave it out: prealloc-threads is how many take the memory");
  if (prealloc && reserve == false)
    return keys.error("reserve", "prealloc=on takes all memory at once; leave one of the two out");
  if (prealloc)
    backend.prealloc_threads = threads ? static_cast<unsigned>(*threads) : usual_prealloc_threads();
  TRY_ASSIGN(const std::string policy,
             keys.take_choice("policy", {"default", "preferred", "bind", "interleave"}));
  options.policy = policy == "preferred"    ? HostPolicy::kPreferred
                   : policy == "bind"       ? HostPolicy::kBind
                   : policy == "interleave" ? HostPolicy::kInterleave
                                            : HostPolicy::kDefault;
  TRY(take_host_nodes(keys, options.host_nodes));
  if (object.type == "memory-backend-memfd") {
    TRY(take_memfd(keys, options, warnings));
  } else if (object.type == "memory-backend-file") {
    TRY(take_file(keys, options));
  }
  TRY(keys.finish());
  return backend;
}

}  // namespace ostler::machine
