#include "machine/legacy.h"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>

#include "machine/backends.h"
#include "machine/core.h"

namespace ostler::machine {
namespace {

constexpr struct {
  uint16_t port;
  uint8_t irq;
} kComPorts[] = {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}};

}  // namespace

Result<std::unique_ptr<SerialPorts>> SerialPorts::create(Core& core, Backends& backends,
                                                         chipset::IrqRouter& router) {
  auto ports = std::make_unique<SerialPorts>();
  for (const unsigned irq : {4u, 3u})
    ports->shared_irqs_.push_back(std::make_unique<chipset::WiredOr>(router.line(irq)));
  const auto& serials = core.config().serials;
  for (unsigned i = 0; i < serials.size() && i < std::size(kComPorts); ++i) {
    if (serials[i].empty()) continue;
    TRY_ASSIGN(chardev::CharBackend* const backend,
               backends.take_chardev(serials[i], fmt::format("-serial of port {}", i)));
    auto uart =
        std::make_unique<chipset::Uart>(core.loop(), ports->shared_irqs_[i % 2]->line(i / 2), backend);
    auto region =
        std::make_unique<memory::IoRegion>(fmt::format("com{}", i + 1), *uart, chipset::Uart::kSize);
    memory::Transaction(core.ports()).add(core.ports().root(), kComPorts[i].port, *region);
    ports->ports_.push_back({i, std::move(uart), std::move(region)});
  }
  return ports;
}

void SerialPorts::reset() {
  for (Port& port : ports_) port.uart->reset();
  for (auto& irq : shared_irqs_)
    for (const unsigned source : {0u, 1u}) irq->set_irq(source, false);
}

void SerialPorts::state(state::Archive& archive) {
  for (Port& port : ports_) port.uart->state(archive);
  for (auto& irq : shared_irqs_) irq->state(archive);
}

std::vector<acpi::Description::Serial> SerialPorts::acpi() const {
  std::vector<acpi::Description::Serial> all;
  for (const Port& port : ports_) all.push_back({kComPorts[port.number].port, kComPorts[port.number].irq});
  return all;
}

Result<int64_t> rtc_start_seconds(const config::Machine& config) {
  const std::time_t now = std::time(nullptr);
  if (config.rtc.base == "utc") return int64_t{now};
  std::tm time{};
  if (config.rtc.base == "localtime") {
    localtime_r(&now, &time);
    return int64_t{timegm(&time)};
  }
  const int fields = std::sscanf(config.rtc.base.c_str(), "%d-%d-%dT%d:%d:%d", &time.tm_year, &time.tm_mon,
                                 &time.tm_mday, &time.tm_hour, &time.tm_min, &time.tm_sec);
  if (fields != 3 && fields != 6)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-rtc base={}: write utc, localtime or a date like 2026-11-20T12:00:00",
                             config.rtc.base));
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  return int64_t{timegm(&time)};
}

}  // namespace ostler::machine
