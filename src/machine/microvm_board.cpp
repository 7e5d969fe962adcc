#include "machine/microvm_board.h"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "devices/chipset/acpi_reduced.h"
#include "devices/chipset/io_apic.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/system_ports.h"
#include "devices/pci/bus.h"
#include "devices/pci/config_access.h"
#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"
#include "machine/backends.h"
#include "machine/core.h"
#include "machine/fixed_regions.h"
#include "machine/kernel_irqchip.h"
#include "machine/legacy.h"
#include "machine/properties.h"

namespace ostler::machine {
namespace {

constexpr unsigned kGedPin = 9;
constexpr uint16_t kDebugPort = 0x402;
constexpr uint64_t kEventBytes = 4, kSleepOffset = 0x100, kSleepBytes = 4;
// I/O APIC inputs of the virtio-mmio slots; the last four serve PCI instead where there is PCI.
constexpr std::array<uint8_t, kVirtioMmioSlots> kSlotPins{5,  6,  7,  10, 11, 12, 14, 15,
                                                          20, 21, 22, 23, 16, 17, 18, 19};
constexpr unsigned kFirstPciGsi = 16, kSlotsBesidePci = 12;
// With pcie=on: configuration space and the window of 32-bit BARs, in the hole below the chips.
constexpr uint64_t kEcam = 0xe0000000, kPciWindow = 0xc0000000;

// PCI wires straight to the I/O APIC.
class PciWires final : public bus::IrqSink {
 public:
  explicit PciWires(bus::IrqSink& io_apic) : io_apic_(io_apic) {}
  void set_irq(unsigned wire, bool level) override { io_apic_.set_irq(kFirstPciGsi + wire, level); }

 private:
  bus::IrqSink& io_apic_;
};

struct PciPart {
  PciPart(Core& core, bus::IrqSink& io_apic)
      : wires(io_apic),
        memory("pci memory", memory::AddressSpace::kMemorySize),
        ports("pci ports", memory::AddressSpace::kPortSize),
        bus({core.memory(), memory, 0}, {core.ports(), ports, 0}, wires, core.apic_bus()),
        ecam(bus),
        config_ports(bus) {}
  PciWires wires;
  memory::ContainerRegion memory, ports;
  pci::Bus bus;
  pci::Ecam ecam;
  pci::ConfigPorts config_ports;
};

class Microvm final : public Board {
 public:
  Microvm(Core& core, chipset::SystemRequests& requests, bool with_pci)
      : core_(core),
        kernel_(core.kernel_irqchip()),
        ports_(core.ports()),
        memory_(core.memory()),
        io_apic_(core.apic_bus(), 0),
        router_(nullptr, io_apic_),
        reduced_(bus::IrqLine(io_apic_, kGedPin), requests) {
    core.apic_bus().add_eoi_sink(io_apic_);
    if (kernel_ != nullptr && kernel_->mode() == accel::kvm::Irqchip::Mode::kOn)
      io_apic_.set_kernel(kernel_->io_apic());
    memory_.add("io apic", io_apic_, kIoApic.value, chipset::IoApic::kSize, 1, 4);
    memory_.add("event device", reduced_.event_registers(), kGed.value, kEventBytes, 1);
    memory_.add("sleep registers", reduced_.sleep_registers(), kGed.value + kSleepOffset, kSleepBytes, 1);
    if (with_pci) {
      pci_.emplace(core, io_apic_);
      if (kernel_ != nullptr) pci_->bus.set_message_fds(kernel_->message_fds());
      memory_.add("pci ecam", pci_->ecam, kEcam, pci::Ecam::kBytesPerBus, 1, 4);
      ports_.add("pci config", pci_->config_ports, pci::ConfigPorts::kFirstPort, pci::ConfigPorts::kPorts);
      memory::Transaction(core.memory()).add(core.memory().root(), 0, pci_->memory, -1);
      memory::Transaction(core.ports()).add(core.ports().root(), 0, pci_->ports, -1);
    }
  }

  Result<void> add_character_devices(Backends& backends) {
    TRY_ASSIGN(serial_, SerialPorts::create(core_, backends, router_));
    if (core_.config().debug_chardev) {
      TRY_ASSIGN(chardev::CharBackend* const backend,
                 backends.take_chardev(*core_.config().debug_chardev, "-debugcon"));
      debug_port_ = std::make_unique<chipset::DebugPort>(*backend);
      ports_.add("debug port", *debug_port_, kDebugPort, 1);
    }
    return {};
  }

  pci::Bus* pci() override { return pci_ ? &pci_->bus : nullptr; }

  Result<void> plug_mmio(std::unique_ptr<virtio::Device> device, event::Loop* doorbells) override {
    const size_t slots = pci_ ? kSlotsBesidePci : kSlotPins.size();
    if (slots_.size() >= slots)
      return Error(ErrorKind::kNoResource,
                   fmt::format("{}: all {} virtio-mmio slots are taken", device->name(), slots));
    const size_t index = slots_.size();
    slots_.push_back(
        std::make_unique<virtio::Mmio>(std::move(device), bus::IrqLine(io_apic_, kSlotPins[index])));
    if (doorbells != nullptr) slots_.back()->serve_on(*doorbells);
    memory_.add(fmt::format("virtio-mmio {}", index), *slots_.back(),
                kVirtioMmio.value + index * kVirtioMmioSlot, kVirtioMmioSlot, 1);
    return {};
  }

  void reset() override {
    io_apic_.reset();
    reduced_.reset();
    serial_->reset();
    for (auto& slot : slots_) slot->reset();
    if (pci_) {
      pci_->bus.reset();
      pci_->config_ports.reset();
    }
    // As in the pc machine: what the I/O APIC remembers of a snapshot that did not fit together.
    for (unsigned pin = 0; pin < 24; ++pin) io_apic_.set_irq(pin, false);
    if (kernel_ != nullptr) give_to_kernel(*kernel_, nullptr, io_apic_);
  }

  void quiesce() override {
    for (auto& slot : slots_) slot->quiesce();
    if (!pci_) return;
    for (const auto& function : pci_->bus.functions())
      if (auto* device = dynamic_cast<virtio::Pci*>(function.get())) device->quiesce();
    pci_->bus.collect();
  }

  void state(state::Archive& archive) override {
    archive.section("microvm", 1);
    if (kernel_ != nullptr && !archive.loading()) take_from_kernel(*kernel_, nullptr, io_apic_);
    io_apic_.state(archive);
    if (kernel_ != nullptr && archive.loading()) give_to_kernel(*kernel_, nullptr, io_apic_);
    reduced_.state(archive);
    serial_->state(archive);
    for (auto& slot : slots_) slot->state(archive);
    if (!pci_) return;
    pci_->config_ports.state(archive);
    for (const auto& function : pci_->bus.functions()) function->state(archive);
  }

  acpi::Description acpi() const override {
    acpi::Description d;
    d.apic_ids = core_.apic_ids();
    d.numa = core_.numa();
    d.has_8259 = d.has_8042 = d.has_rtc = false;
    d.reduced = acpi::ReducedHardware{.ged_base = static_cast<uint32_t>(kGed.value),
                                      .ged_gsi = kGedPin,
                                      .sleep_base = static_cast<uint32_t>(kGed.value + kSleepOffset)};
    d.serial = serial_->acpi();
    for (size_t i = 0; i < slots_.size(); ++i)
      d.virtio_mmio.push_back(
          {static_cast<uint32_t>(kVirtioMmio.value + i * kVirtioMmioSlot), kVirtioMmioSlot, kSlotPins[i]});
    if (pci_) {
      const uint64_t window = core_.layout().pci_window64().value;
      d.pci = acpi::Description::Pci{.memory32 = {kPciWindow, kEcam - 1},
                                     .memory64 = {window, window + MemoryLayout::kPciWindow64Size - 1},
                                     .ecam = kEcam,
                                     .first_gsi = kFirstPciGsi,
                                     .piix_links = false};
    }
    return d;
  }

  void press_power_button() override { reduced_.press_power_button(); }

 private:
  Core& core_;
  accel::kvm::Irqchip* const kernel_;
  FixedRegions ports_, memory_;
  chipset::IoApic io_apic_;
  chipset::IrqRouter router_;
  chipset::AcpiReduced reduced_;
  std::unique_ptr<SerialPorts> serial_;
  std::unique_ptr<chipset::DebugPort> debug_port_;
  std::vector<std::unique_ptr<virtio::Mmio>> slots_;
  std::optional<PciPart> pci_;
};

}  // namespace

Result<std::unique_ptr<Board>> MicrovmBoard::create(Core& core, Backends& backends,
                                                    chipset::SystemRequests& requests) {
  TRY_ASSIGN(const MachineProperties properties, machine_properties(core.config()));
  auto board = std::make_unique<Microvm>(core, requests, properties.pcie == config::OnOffAuto::kOn);
  TRY(board->add_character_devices(backends));
  return std::unique_ptr<Board>(std::move(board));
}

}  // namespace ostler::machine
