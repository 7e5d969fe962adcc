#include "machine/guest_ram.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "machine/memory_backend.h"

namespace ostler::machine {
namespace {

// As -m takes it: "512M", "3G".
std::string size_text(uint64_t bytes) {
  constexpr std::string_view kUnits = "MGT";
  uint64_t count = bytes >> 20;
  size_t unit = 0;
  for (; unit + 1 < kUnits.size() && count != 0 && count % 1024 == 0; ++unit) count /= 1024;
  return fmt::format("{}{}", count, kUnits[unit]);
}

// The machine's own memory, as -m, -mem-path and -mem-prealloc have it.
MemoryBackend usual_backend(const config::Machine& config, const MachineProperties& properties) {
  MemoryBackend backend;
  backend.options = {.name = "ram",
                     .size = config.memory_bytes,
                     .merge = properties.mem_merge,
                     .dump = properties.dump_guest_core};
  if (!config.memory_path.empty()) {
    backend.options.backing = memory::Backing::kFile;
    backend.options.path = config.memory_path;
  } else if (config.memory_huge || config.memory_shared) {
    backend.options.backing = memory::Backing::kMemfd;
    backend.options.huge = config.memory_huge;
  }
  backend.options.share = config.memory_shared;
  if (config.memory_prealloc) backend.prealloc_threads = usual_prealloc_threads();
  return backend;
}

std::string origin_of(const config::Machine& config) {
  if (!config.memory_path.empty()) return "-mem-path " + config.memory_path;
  return "-m " + size_text(config.memory_bytes);
}

// On a terminal, when it takes long enough for a person to wonder.
class Progress {
 public:
  explicit Progress(uint64_t all) : all_(all), terminal_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_) std::fputs("\r\x1b[K", stderr);
  }
  void operator()(uint64_t done) {
    if (!terminal_ || (done == all_ && !shown_)) return;
    shown_ = true;
    std::fprintf(stderr, "\rtaking guest memory: %llu of %llu MiB",
                 static_cast<unsigned long long>(done >> 20), static_cast<unsigned long long>(all_ >> 20));
  }

 private:
  const uint64_t all_;
  const bool terminal_;
  bool shown_ = false;
};

Result<std::shared_ptr<memory::RamBlock>> make_block(const MemoryBackend& backend, bool lock) {
  TRY_ASSIGN(auto block, memory::RamBlock::create(backend.options));
  if (backend.prealloc_threads != 0) {
    Progress progress(block->size());
    TRY(block->memory().populate(block->name(), backend.prealloc_threads, std::ref(progress)));
  }
  if (lock) TRY(block->memory().lock(block->name()));
  return block;
}

}  // namespace

Result<GuestRam> GuestRam::create(const config::Machine& config, const MachineProperties& properties,
                                  std::vector<std::string>& warnings) {
  std::map<std::string, MemoryBackend, std::less<>> backends;
  std::map<std::string, std::string, std::less<>> origins;
  for (const config::Object& object : config.objects) {
    if (!MemoryBackend::is_type(object.type)) continue;
    TRY_ASSIGN(auto backend, MemoryBackend::parse(object, properties, warnings));
    backends.emplace(object.id, std::move(backend));
    origins.emplace(object.id, object.origin);
  }
  const auto known = [&](const std::string& id) -> Result<void> {
    if (backends.contains(id)) return {};
    return Error(
        ErrorKind::kNotFound,
        fmt::format("there is no memory backend '{}'; -object memory-backend-ram,id={},size=… makes it", id,
                    id));
  };
  GuestRam ram;
  TRY_ASSIGN(ram.numa_, NumaTopology::create(config, [&](const std::string& id) -> Result<uint64_t> {
               TRY(known(id));
               return backends.at(id).options.size;
             }));
  warnings.insert(warnings.end(), ram.numa_.warnings.begin(), ram.numa_.warnings.end());

  std::vector<std::string> used;
  for (const NumaTopology::Node& node : ram.numa_.nodes)
    if (!node.memdev.empty()) used.push_back(node.memdev);
  if (!properties.memory_backend.empty()) {
    const std::string origin = "-machine memory-backend=" + properties.memory_backend;
    if (!used.empty())
      return Error(ErrorKind::kInvalidArgument,
                   origin + ": -numa node,memdev=… gives the memory; leave one out");
    if (auto found = known(properties.memory_backend); !found)
      return std::move(found).error().with_context(origin);
    if (const uint64_t size = backends.at(properties.memory_backend).options.size;
        size != config.memory_bytes)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: it has {} and -m gives {}; make them equal, or leave -m out", origin,
                               size_text(size), size_text(config.memory_bytes)));
    used.push_back(properties.memory_backend);
  }
  for (size_t i = 0; i < used.size(); ++i)
    if (std::find(used.begin(), used.begin() + static_cast<ptrdiff_t>(i), used[i]) !=
        used.begin() + static_cast<ptrdiff_t>(i))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-numa: memory backend '{}' is given to two nodes", used[i]));
  if (!used.empty() && (!config.memory_path.empty() || config.memory_prealloc || config.memory_huge))
    return Error(
        ErrorKind::kInvalidArgument,
        "-mem-path and -mem-prealloc are for memory without a backend; give mem-path and prealloc to "
        "the -object instead");

  for (const std::string& id : used) {
    auto block = make_block(backends.at(id), config.memory_lock);
    if (!block) return std::move(block).error().with_context(origins.at(id));
    ram.blocks_.push_back(*std::move(block));
  }
  if (used.empty()) {
    // A folder whose file system is not mounted, or a mistyped one, would be left behind as a file.
    if (!config.memory_path.empty() && access(config.memory_path.c_str(), F_OK) != 0)
      warnings.push_back(
          fmt::format("{}: there is neither a folder nor a file; a file of {} is made, and stays",
                      origin_of(config), size_text(config.memory_bytes)));
    auto block = make_block(usual_backend(config, properties), config.memory_lock);
    if (!block) return std::move(block).error().with_context(origin_of(config));
    ram.blocks_.push_back(*std::move(block));
  }
  return ram;
}

void GuestRam::map(const MemoryLayout& layout, memory::AddressSpace& space) {
  memory::Transaction change(space);
  uint64_t begin = 0;  // of the block among all RAM
  const bool alone = blocks_.size() == 1;
  for (const auto& block : blocks_) {
    const uint64_t end = begin + block->size();
    const auto add = [&](const char* name, uint64_t from, uint64_t to, uint64_t address) {
      from = std::max(from, begin);
      to = std::min(to, end);
      if (from >= to) return;
      const std::string full = alone ? name : fmt::format("{}.{}", name, block->name());
      regions_.push_back(std::make_unique<memory::RamRegion>(full, block, from - begin, to - from));
      change.add(space.root(), address + from, *regions_.back());
    };
    add("ram.low", 0, layout.low, 0);
    add("ram.high", layout.low, layout.low + layout.high, kHighRam.value - layout.low);
    begin = end;
  }
}

acpi::Numa GuestRam::numa(const MemoryLayout& layout) const {
  acpi::Numa out;
  out.nodes = static_cast<unsigned>(numa_.nodes.size());
  if (out.nodes == 0) return out;
  out.node_of = numa_.node_of;
  out.distances = numa_.distances;
  uint64_t begin = 0;
  for (unsigned node = 0; node < out.nodes; ++node) {
    const uint64_t end = begin + numa_.nodes[node].memory;
    if (begin < std::min(end, layout.low))
      out.memory.push_back({.node = node, .base = begin, .size = std::min(end, layout.low) - begin});
    if (const uint64_t from = std::max(begin, layout.low); from < end)
      out.memory.push_back({.node = node, .base = from - layout.low + kHighRam.value, .size = end - from});
    begin = end;
  }
  return out;
}

}  // namespace ostler::machine
