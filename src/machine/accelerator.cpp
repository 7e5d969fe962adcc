#include "machine/accelerator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "accel/kvm/dirty_ring.h"
#include "base/suggest.h"
#include "config/property.h"

namespace ostler::machine {
namespace {

using Table = config::PropertyTable<bt::Options>;

constexpr uint64_t kLeastCache = uint64_t{4} << 20, kMostCache = uint64_t{1} << 30;

Result<void> set_cache(bt::Options& options, std::string_view text, uint64_t bytes) {
  if (bytes < kLeastCache || bytes > kMostCache)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} is outside 4M to 1G", text));
  options.cache_bytes = bytes & ~uint64_t{4095};
  return {};
}

config::Property<bt::Options> cache() {
  return {{"cache", "size", "memory for translated code, 4M to 1G"},
          [](bt::Options& options, std::string_view text) -> Result<void> {
            TRY_ASSIGN(const uint64_t bytes, config::parse_size(text));
            return set_cache(options, text, bytes);
          },
          [](const bt::Options& options) { return fmt::format("{}M", options.cache_bytes >> 20); }};
}

// As QEMU spells it for its own translator.
config::Property<bt::Options> cache_in_mebibytes() {
  return {{"tb-size", "uint32", "the same in MiB, 4 to 1024"},
          [](bt::Options& options, std::string_view text) -> Result<void> {
            TRY_ASSIGN(const uint64_t count, config::parse_number_between(text, 4, 1024));
            return set_cache(options, text, count << 20);
          },
          [](const bt::Options& options) { return std::to_string(options.cache_bytes >> 20); }};
}

config::Property<bt::Options> thread() {
  return {{"thread", "multi", "each vCPU has a thread of its own"},
          [](bt::Options&, std::string_view text) -> Result<void> {
            if (text == "multi") return {};
            return Error(ErrorKind::kInvalidArgument,
                         fmt::format("'{}' is not available; leave it out, or say thread=multi", text));
          },
          [](const bt::Options&) { return std::string("multi"); }};
}

// Code is mapped twice in any case, so that no mapping is both written and run.
config::Property<bt::Options> split_wx() {
  return {{"split-wx", "on", "no mapping of translated code is both written and run"},
          [](bt::Options&, std::string_view text) -> Result<void> {
            if (text == "on") return {};
            return Error(ErrorKind::kInvalidArgument,
                         fmt::format("'{}' is not available; leave it out, or say split-wx=on", text));
          },
          [](const bt::Options&) { return std::string("on"); }};
}

const Table& table() {
  static const Table table(
      "-accel bt",
      {cache(), cache_in_mebibytes(), thread(), split_wx(),
       config::number("check", &bt::Options::check, 0, 1u << 30,
                      "every Nth block also runs on the interpreter, a difference ends the program; 0: none"),
       config::boolean("perfmap", &bt::Options::perf_map, "tell perf the names of translated code")});
  return table;
}

bool is_translator(std::string_view name) {
  return name == "bt" || name == "tcg";
}

namespace kvm = accel::kvm;

std::string too_slow(double speed) {
  return fmt::format("this host's KVM emulates each instruction, {:.1f} million a second", speed);
}

// As QEMU spells it.
config::Property<Accelerator> dirty_ring_size() {
  using kvm::DirtyRing;
  return {
      {"dirty-ring-size", "uint32",
       "pages in each vCPU's ring of written pages, a power of two from 1024 to 65536; 0: bitmaps instead"},
      [](Accelerator& chosen, std::string_view text) -> Result<void> {
        TRY_ASSIGN(const uint64_t entries, config::parse_number(text));
        if (entries != 0 && (!std::has_single_bit(entries) || entries < DirtyRing::kLeastEntries ||
                             entries > DirtyRing::kMostEntries))
          return Error(ErrorKind::kInvalidArgument,
                       fmt::format("{} is not a power of two from {} to {}; say dirty-ring-size={}, or leave "
                                   "it out",
                                   text, DirtyRing::kLeastEntries, DirtyRing::kMostEntries,
                                   std::bit_ceil(std::clamp<uint64_t>(entries, DirtyRing::kLeastEntries,
                                                                      DirtyRing::kMostEntries))));
        chosen.dirty_ring_entries = static_cast<uint32_t>(entries);
        return {};
      },
      [](const Accelerator& chosen) { return std::to_string(chosen.dirty_ring_entries); }};
}

// As QEMU spells it; -machine has the same, which counts where this is not said.
config::Property<Accelerator> kernel_irqchip() {
  return {{"kernel-irqchip", "off|split|on", "which interrupt controllers are the kernel's, as of -machine"},
          [](Accelerator& chosen, std::string_view text) -> Result<void> {
            const auto at = std::ranges::find(kKernelIrqchipNames, text);
            if (at == kKernelIrqchipNames.end())
              return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not one of off|split|on", text));
            chosen.irqchip = static_cast<KernelIrqchip>(at - kKernelIrqchipNames.begin());
            return {};
          },
          [](const Accelerator& chosen) {
            return std::string(chosen.irqchip ? kKernelIrqchipNames[static_cast<size_t>(*chosen.irqchip)]
                                              : "as -machine says");
          }};
}

// As QEMU spells it.
config::Property<Accelerator> notify_vmexit() {
  constexpr static std::array<std::string_view, 3> kNames{"disable", "run",
                                                          "internal-error"};  // as NotifyExits
  return {{"notify-vmexit", "run|internal-error|disable",
           "a guest that keeps the processor from all events is interrupted, ended, or left alone"},
          [](Accelerator& chosen, std::string_view text) -> Result<void> {
            const auto at = std::ranges::find(kNames, text);
            if (at == kNames.end())
              return Error(ErrorKind::kInvalidArgument,
                           fmt::format("'{}' is not one of run|internal-error|disable", text));
            chosen.notify_exits = static_cast<kvm::NotifyExits>(at - kNames.begin());
            return {};
          },
          [](const Accelerator& chosen) {
            return std::string(kNames[static_cast<size_t>(chosen.notify_exits)]);
          }};
}

const config::PropertyTable<Accelerator>& kvm_table() {
  static const config::PropertyTable<Accelerator> table(
      "-accel kvm",
      {dirty_ring_size(), kernel_irqchip(), notify_vmexit(),
       config::number("notify-window", &Accelerator::notify_window, 0, 0xffffffff,
                      "how long a guest may do that beyond the least that is safe, as the processor "
                      "counts")});
  return table;
}

// What QEMU's accelerators have and these have not; empty: not theirs either.
std::string_view why_not(std::string_view key) {
  constexpr std::pair<std::string_view, std::string_view> kReasons[] = {
      {"kvm-shadow-mem", "the kernel decides how much memory shadow page tables take"},
      {"igd-passthru", "no graphics of the host are given to guests"},
      {"one-insn-per-tb", "-d exec and -s follow single instructions"},
  };
  for (const auto& [name, reason] : kReasons)
    if (name == key) return reason;
  return {};
}

// Errors for what neither table has, with what to do.
Result<void> check_names(std::string_view owner, const config::PropertySchema& known,
                         const config::Properties& properties) {
  const auto infos = known.list();
  std::vector<std::string_view> names;
  for (const config::PropertyInfo& info : infos) names.push_back(info.name);
  for (const auto& [key, value] : properties) {
    if (std::ranges::find(names, key) != names.end()) continue;
    if (const std::string_view reason = why_not(key); !reason.empty())
      return Error(ErrorKind::kUnsupported, fmt::format("{}: {}: {}; leave it out", owner, key, reason));
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} has no property '{}'{} ({},help lists all)",
                                                          owner, key, suggestion(key, names), owner));
  }
  return {};
}

// For who insists on it.
Result<Accelerator> by_kvm(const config::Properties& properties, std::vector<std::string>& warnings) {
  for (const auto& [key, value] : properties)
    if (table().find(key) != nullptr)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-accel kvm has no property '{}'; leave it out, or say -accel bt", key));
  TRY(check_names("-accel kvm", kvm_table(), properties));
  TRY_ASSIGN(Accelerator chosen, kvm_table().parse(properties));
  auto system = kvm::System::open();
  if (!system) return std::move(system).error().with_context("-accel kvm");
  auto speed = kvm::measure_speed(**system);
  if (!speed) return std::move(speed).error().with_context("-accel kvm");
  if (*speed < kvm::kLeastSpeed)
    warnings.push_back(fmt::format("-accel kvm: {}: -accel bt is faster", too_slow(*speed)));
  chosen.kvm = *std::move(system);
  return chosen;
}

// Null: the translator is the better choice; `warnings` tells why unless there is no KVM at all.
std::shared_ptr<kvm::System> fast_kvm(std::vector<std::string>& warnings) {
  const auto system = kvm::System::open();
  if (!system) {
    if (system.error().kind() != ErrorKind::kNotFound)
      warnings.push_back(system.error().message() + "; the binary translator is used instead");
    return nullptr;
  }
  const auto speed = kvm::measure_speed(**system);
  if (speed && *speed >= kvm::kLeastSpeed) return *system;
  warnings.push_back(fmt::format("{}: the binary translator is used instead; -accel bt says so at once",
                                 speed ? too_slow(*speed) : speed.error().message()));
  return nullptr;
}

Result<Accelerator> translator(const config::Machine& config, const config::Properties& properties) {
  Accelerator chosen{.kvm = nullptr, .translates = true, .options = {}};
  for (const auto& [key, value] : properties)
    if (kvm_table().find(key) != nullptr)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("-accel bt has no property '{}'; leave it out, or say -accel kvm", key));
  TRY(check_names("-accel bt", table(), properties));
  TRY_ASSIGN(chosen.options, table().parse(properties));
  if (chosen.options.check != 0 && config.cpus > 1)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("-accel bt: check: needs a guest with one vCPU, and this one has {}; say -smp 1, or "
                    "leave check out",
                    config.cpus));
  chosen.options.tsc = true;
  return chosen;
}

// What is said of the translator is meant for it.
Result<Accelerator> automatic(const config::Machine& config, const config::Properties& properties,
                              std::vector<std::string>& warnings) {
  if (properties.empty())
    if (auto system = fast_kvm(warnings))
      return Accelerator{.kvm = std::move(system), .translates = false, .options = {}};
  return translator(config, properties);
}

Result<Accelerator> interpreter(const config::Properties& properties) {
  if (properties.empty()) return Accelerator{};
  const std::string& key = properties.front().key;
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("-accel interp has no property '{}'; leave it out{}", key,
                           table().find(key) != nullptr ? ", or say -accel bt" : ""));
}

}  // namespace

Result<Accelerator> choose_accelerator(const config::Machine& config, std::vector<std::string>& warnings) {
  if (config.accelerators.empty()) return automatic(config, {}, warnings);
  for (const auto& [name, properties] : config.accelerators) {
    if (name == "interp") return interpreter(properties);
    if (name == "auto") return automatic(config, properties, warnings);
    if (name == "kvm") {
      auto chosen = by_kvm(properties, warnings);
      if (chosen || &name == &config.accelerators.back().name) return chosen;
      warnings.push_back(chosen.error().message());
      continue;
    }
    if (is_translator(name)) return translator(config, properties);
    warnings.push_back(fmt::format("-accel {}: is not available in this version", name));
  }
  return Error(ErrorKind::kUnsupported,
               fmt::format("-accel {}: is not available in this version; leave it out, or say -accel bt",
                           config.accelerators.back().name));
}

std::string accelerator_help(const std::string& name) {
  if (is_translator(name)) return table().help();
  if (name == "kvm") return kvm_table().help();
  return "Accelerators supported by this program:\n"
         "auto                 kvm where it runs code at speed, else bt (default)\n"
         "kvm                  the host's processor, by its kernel's /dev/kvm\n"
         "bt                   binary translator (tcg is another name of it)\n"
         "interp               interpreter: slow, the reference for the other\n" +
         table().help() + kvm_table().help();
}

}  // namespace ostler::machine
