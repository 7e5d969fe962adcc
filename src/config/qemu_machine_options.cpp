// -machine, -accel, -cpu, -smp, -rtc, -name, -uuid.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <utility>

#include "base/suggest.h"
#include "config/property.h"
#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

constexpr unsigned kMostCpus = 64;
constexpr std::array<std::string_view, 2> kMachineTypes{"pc", "microvm"};

bool is_help(std::string_view value) {
  return value == "help" || value == "?";
}

// "-machine pc,help".
bool takes_help(KeyValues& keys) {
  return keys.take("help").has_value() || keys.take("?").has_value();
}

// "pc-i440fx-7.2": QEMU's names for what a version of it showed guests; here there is one such machine.
bool is_versioned_pc(std::string_view type) {
  constexpr std::string_view kPrefix = "pc-i440fx-";
  return type.starts_with(kPrefix) && type.size() > kPrefix.size() &&
         type.find_first_not_of("0123456789.", kPrefix.size()) == std::string_view::npos;
}

Result<void> add_accelerators(QemuBuilder& b, std::string_view list, const Properties& properties = {}) {
  constexpr std::array<std::string_view, 5> kKnown{"auto", "interp", "tcg", "bt", "kvm"};
  // Of other hosts; what follows them is tried: "accel=kvm:hvf:whpx:tcg" is one line for every host.
  constexpr std::array<std::string_view, 6> kElsewhere{"hax", "hvf", "nvmm", "qtest", "whpx", "xen"};
  while (!list.empty()) {
    const size_t colon = list.find(':');
    const std::string_view one = list.substr(0, colon);
    list = colon == std::string_view::npos ? std::string_view{} : list.substr(colon + 1);
    if (std::find(kKnown.begin(), kKnown.end(), one) == kKnown.end() &&
        std::find(kElsewhere.begin(), kElsewhere.end(), one) == kElsewhere.end())
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("'{}' is not an accelerator; known are {}{}", one, fmt::join(kKnown, ", "),
                               suggestion(one, kKnown)));
    b.machine().accelerators.push_back({std::string(one), properties});
  }
  return {};
}

}  // namespace

Result<void> option_machine(QemuBuilder& b, std::string_view value) {
  if (is_help(value)) {
    b.out.action = CommandLine::Action::kMachineHelp;
    return {};
  }
  TRY_ASSIGN(auto keys, KeyValues::parse("-machine", value, "type"));
  if (auto type = keys.take("type")) {
    if (is_versioned_pc(*type)) type = "pc";
    if (std::find(kMachineTypes.begin(), kMachineTypes.end(), *type) == kMachineTypes.end())
      return keys.error("type",
                        fmt::format("there is no machine '{}'; known are {}{}", *type,
                                    fmt::join(kMachineTypes, ", "), suggestion(*type, kMachineTypes)));
    b.machine().type = *type;
  }
  if (const auto list = keys.take("accel")) TRY(add_accelerators(b, *list));
  if (takes_help(keys)) {
    b.out.action = CommandLine::Action::kMachineHelp;
    b.out.subject = b.machine().type;
    return {};
  }
  if (auto kernel = keys.take("kernel")) b.machine().kernel = *std::move(kernel);
  if (auto initrd = keys.take("initrd")) b.machine().initrd = *std::move(initrd);
  if (auto append = keys.take("append")) b.machine().append = *std::move(append);
  for (auto& property : keys.take_rest()) {
    std::ranges::replace(property.key, '_', '-');  // QEMU takes both: kernel_irqchip
    b.machine().machine_properties.push_back(std::move(property));
  }
  return {};
}

Result<void> option_accel(QemuBuilder& b, std::string_view value) {
  if (is_help(value)) {
    b.out.action = CommandLine::Action::kAccelHelp;
    return {};
  }
  TRY_ASSIGN(auto keys, KeyValues::parse("-accel", value, "accel"));
  const auto name = keys.take("accel");
  if (!name) return keys.error("accel", "names no accelerator");
  if (takes_help(keys)) {
    b.out.action = CommandLine::Action::kAccelHelp;
    b.out.subject = *name;
    return {};
  }
  return add_accelerators(b, *name, keys.take_rest());
}

Result<void> option_cpu(QemuBuilder& b, std::string_view value) {
  if (is_help(value)) b.out.action = CommandLine::Action::kCpuHelp;
  b.machine().cpu_model = value;
  return {};
}

Result<void> option_smp(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-smp", value, "cpus"));
  TRY_ASSIGN(const auto cpus, keys.take_number("cpus"));
  TRY_ASSIGN(const auto maxcpus, keys.take_number("maxcpus"));
  TRY_ASSIGN(const auto sockets, keys.take_number("sockets"));
  TRY_ASSIGN(const auto cores, keys.take_number("cores"));
  TRY_ASSIGN(const auto threads, keys.take_number("threads"));
  TRY_ASSIGN(const auto dies, keys.take_number("dies"));
  TRY_ASSIGN(const auto clusters, keys.take_number("clusters"));
  TRY(keys.finish());
  if (clusters.value_or(1) != 1)
    return keys.error("clusters", "x86 processors have none; say dies, or leave it out");
  const std::pair<std::string_view, std::optional<uint64_t>> counts[] = {
      {"cpus", cpus}, {"maxcpus", maxcpus}, {"sockets", sockets},
      {"dies", dies}, {"cores", cores},     {"threads", threads}};
  for (const auto& [key, count] : counts)
    if (count && (*count == 0 || *count > kMostCpus))
      return keys.error(key, fmt::format("{} is outside 1 to {}", *count, kMostCpus));
  // As the field does since QEMU 6.2: what is not given is 1, cores preferred over sockets, and the rest
  // follows.
  const uint64_t t = threads.value_or(1), d = dies.value_or(1);
  uint64_t s = sockets.value_or(0), c = cores.value_or(0);
  const uint64_t wanted = maxcpus.value_or(cpus.value_or(0));
  if (s == 0 && c == 0) {
    s = 1;
    c = wanted == 0 ? 1 : wanted / (d * t);
  } else if (s == 0) {
    s = wanted == 0 ? 1 : wanted / (d * c * t);
  } else if (c == 0) {
    c = wanted == 0 ? 1 : wanted / (s * d * t);
  }
  const uint64_t product = s * d * c * t;
  const uint64_t most = maxcpus.value_or(cpus.value_or(product));
  const uint64_t present = cpus.value_or(most);
  if (product != most) {
    const std::string cure = product > most && !maxcpus
                                 ? fmt::format("say maxcpus={}, or give fewer of each", product)
                                 : "leave one of them out, and it follows from the rest";
    return keys.error(
        "maxcpus", fmt::format("sockets {} x dies {} x cores {} x threads {} give {} vCPUs, not {}; {}", s, d,
                               c, t, product, most, cure));
  }
  if (present > most) return keys.error("cpus", fmt::format("{} is more than maxcpus {}", present, most));
  if (most > kMostCpus) return keys.error("maxcpus", fmt::format("{} is outside 1 to {}", most, kMostCpus));
  Machine& m = b.machine();
  m.cpus = static_cast<unsigned>(present);
  m.max_cpus = static_cast<unsigned>(most);
  m.sockets = static_cast<unsigned>(s);
  m.dies = static_cast<unsigned>(d);
  m.cores = static_cast<unsigned>(c);
  m.threads = static_cast<unsigned>(t);
  return {};
}

Result<void> option_rtc(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-rtc", value, "base"));
  if (auto base = keys.take("base")) b.machine().rtc.base = *base;
  TRY_ASSIGN(b.machine().rtc.clock, keys.take_choice("clock", {"host", "vm", "rt"}));
  TRY_ASSIGN(const auto drift, keys.take_choice("driftfix", {"none", "slew"}));
  static_cast<void>(drift);  // ticks are never dropped: each periodic interrupt waits for its acknowledgement
  return keys.finish();
}

Result<void> option_name(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse("-name", value, "guest"));
  if (auto name = keys.take("guest")) b.machine().name = *name;
  TRY_ASSIGN(const auto threads, keys.take_bool("debug-threads"));
  static_cast<void>(threads);  // threads always carry their names
  keys.take("process");
  return keys.finish();
}

// 8-4-4-4-12 hexadecimal digits; the first three fields are little-endian in SMBIOS (3.6, §7.2.1).
Result<void> option_uuid(QemuBuilder& b, std::string_view value) {
  constexpr std::string_view kPattern = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  constexpr std::array<uint8_t, 16> kPlaces{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  std::string digits;
  bool fits = value.size() == kPattern.size();
  for (size_t i = 0; fits && i < value.size(); ++i) {
    if (kPattern[i] == '-')
      fits = value[i] == '-';
    else
      fits = std::isxdigit(static_cast<unsigned char>(value[i])) != 0, digits += value[i];
  }
  if (!fits) return Error(ErrorKind::kInvalidArgument, fmt::format("write it as {}, x: 0-9, a-f", kPattern));
  for (size_t i = 0; i < kPlaces.size(); ++i)
    b.machine().uuid[kPlaces[i]] = static_cast<uint8_t>(std::stoul(digits.substr(2 * i, 2), nullptr, 16));
  return {};
}

}  // namespace ostler::config
