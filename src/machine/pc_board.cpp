#include "machine/pc_board.h"

#include <fmt/format.h>

#include "base/bytes.h"
#include "devices/chipset/acpi_pm.h"
#include "devices/chipset/hpet.h"
#include "devices/chipset/i8042.h"
#include "devices/chipset/io_apic.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/pit.h"
#include "devices/chipset/rtc.h"
#include "devices/chipset/system_ports.h"
#include "devices/fw_cfg/fw_cfg.h"
#include "devices/ide/piix_ide.h"
#include "devices/pci/bus.h"
#include "devices/pci/config_access.h"
#include "devices/pci/piix.h"
#include "devices/virtio/transport/pci.h"
#include "machine/backends.h"
#include "machine/core.h"
#include "machine/fixed_regions.h"
#include "machine/kernel_irqchip.h"
#include "machine/kernel_pit.h"
#include "machine/legacy.h"
#include "machine/pic_inputs.h"
#include "machine/properties.h"

namespace ostler::machine {
namespace {

constexpr unsigned kIrqKeyboard = 1, kIrqSci = 9, kIrqMouse = 12, kIrqFpu = 13;
constexpr uint16_t kPmBase = 0x600, kGpe0 = 0xafe0, kResetControl = 0xcf9, kDebugPort = 0x402;
constexpr uint64_t kPmPorts = 64, kPmUsed = 12, kGpePorts = 4;
constexpr unsigned kFirstPciGsi = 16;
// ISA interrupts of the four PCI wires, for guests that know nothing of ACPI or the I/O APIC.
constexpr std::array<uint8_t, 4> kPciIrqs = {10, 10, 11, 11};
constexpr uint16_t kLevelInputs = 1u << 10 | 1u << 11;

class Pc final : public Board {
 public:
  Pc(Core& core, chipset::SystemRequests& requests, int64_t rtc_start, bool with_hpet)
      : core_(core),
        with_hpet_(with_hpet),
        kernel_(core.kernel_irqchip()),
        ports_(core.ports()),
        memory_(core.memory()),
        pic_(bus::IrqLine(core.apic_bus(), chipset::ApicBus::kIntrPin)),
        pic_inputs_(pic_),
        io_apic_(core.apic_bus(), 0),
        router_(&pic_inputs_.isa(), io_apic_),
        hpet_(core.loop(), router_, &core.apic_bus()),
        pit_(core.loop(), bus::IrqLine(hpet_, chipset::Hpet::kPitPin)),
        rtc_(core.loop(), bus::IrqLine(hpet_, chipset::Hpet::kRtcPin), rtc_start),
        i8042_(router_.line(kIrqKeyboard), router_.line(kIrqMouse), requests),
        // There is no firmware that would turn ACPI mode on.
        pm_(core.loop(), router_.line(kIrqSci), requests, true),
        port92_(requests),
        reset_control_(requests),
        panic_(requests),
        fw_cfg_(core.memory()),
        pm_block_("acpi pm block", kPmPorts),
        pm_region_("acpi pm", pm_.pm_ports(), kPmUsed),
        pci_memory_("pci memory", memory::AddressSpace::kMemorySize),
        pci_ports_("pci ports", memory::AddressSpace::kPortSize),
        piix3_(std::make_shared<pci::Piix3>(&pic_inputs_.pci(), &io_apic_, kFirstPciGsi)),
        ide_(std::make_shared<ide::PiixIde>(core.memory(), router_.line(ide::PiixIde::kPorts[0].irq),
                                            router_.line(ide::PiixIde::kPorts[1].irq))),
        pci_({core.memory(), pci_memory_, 0}, {core.ports(), pci_ports_, 0}, *piix3_, core.apic_bus()),
        config_ports_(pci_, &reset_control_) {
    core.apic_bus().set_ext_int_source(pic_);
    core.apic_bus().add_eoi_sink(io_apic_);
    core.set_fpu_error(router_.line(kIrqFpu));
    if (kernel_ != nullptr) pci_.set_message_fds(kernel_->message_fds());
    if (kernel_ != nullptr && kernel_->mode() == accel::kvm::Irqchip::Mode::kOn) {
      pic_.set_kernel(kernel_->pic());
      io_apic_.set_kernel(kernel_->io_apic());
    }
    place_chips();
    fill_fw_cfg();
  }

  Result<void> add_functions() {
    if (kernel_ != nullptr && kernel_->mode() == accel::kvm::Irqchip::Mode::kOn)
      TRY(move_pit_to_kernel(*kernel_, pit_, hpet_));
    pci_.preset_interrupt_lines(kPciIrqs);
    TRY_ASSIGN(const auto host, pci_.add(std::make_shared<pci::I440fxHostBridge>(), pci::Address{0, 0}));
    TRY_ASSIGN(const auto isa, pci_.add(piix3_, pci::Address{1, 0}, true));
    auto pm = std::make_shared<pci::Piix4Pm>(pm_block_);
    TRY_ASSIGN(const auto pm_at, pci_.add(pm, pci::Address{1, 3}));
    TRY_ASSIGN(const auto ide_at, pci_.add(ide_, pci::Address{1, 1}));
    static_cast<void>(host), static_cast<void>(isa), static_cast<void>(pm_at), static_cast<void>(ide_at);
    ide_->preset();
    pm->preset(kPmBase);
    piix3_->preset(kPciIrqs);
    pic_.preset_level_inputs(kLevelInputs);
    return {};
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

  pci::Bus* pci() override { return &pci_; }
  ide::PiixIde* ide() override { return ide_.get(); }

  Result<void> plug_mmio(std::unique_ptr<virtio::Device> device, event::Loop*) override {
    return Error(ErrorKind::kUnsupported,
                 fmt::format("the pc machine has PCI instead of virtio-mmio; say '{}-pci'", device->name()));
  }

  void reset() override {
    pic_.reset();
    io_apic_.reset();
    hpet_.reset();
    pit_.reset();
    rtc_.reset();
    i8042_.reset();
    pm_.reset();
    port92_.reset();
    reset_control_.reset();
    fw_cfg_.reset();
    serial_->reset();
    pci_.reset();
    config_ports_.reset();
    lower_all_lines();
    if (kernel_ != nullptr) give_to_kernel(*kernel_, &pic_, io_apic_);
    reset_kernel_pit(kernel_, pit_);
  }

  void quiesce() override {
    ide_->quiesce();
    for (const auto& function : pci_.functions())
      if (auto* device = dynamic_cast<virtio::Pci*>(function.get())) device->quiesce();
    pci_.collect();
  }

  void state(state::Archive& archive) override {
    archive.section("pc", 1);
    if (kernel_ != nullptr && !archive.loading()) {
      take_from_kernel(*kernel_, &pic_, io_apic_);
      take_pit_from_kernel(kernel_, pit_);
    }
    pic_.state(archive);
    pic_inputs_.state(archive);
    io_apic_.state(archive);
    hpet_.state(archive);
    pit_.state(archive);
    rtc_.state(archive);
    i8042_.state(archive);
    pm_.state(archive);
    port92_.state(archive);
    reset_control_.state(archive);
    fw_cfg_.state(archive);
    serial_->state(archive);
    config_ports_.state(archive);
    for (const auto& function : pci_.functions()) function->state(archive);
    if (kernel_ != nullptr && archive.loading()) {
      give_to_kernel(*kernel_, &pic_, io_apic_);
      give_pit_to_kernel(kernel_, pit_, hpet_);
    }
  }

  acpi::Description acpi() const override {
    const uint64_t window = core_.layout().pci_window64().value;
    acpi::Description d;
    d.apic_ids = core_.apic_ids();
    d.numa = core_.numa();
    if (with_hpet_) d.hpet = static_cast<uint32_t>(kHpet.value);
    d.fixed = acpi::FixedHardware{.pm1_event = kPmBase + chipset::AcpiPm::kEvent,
                                  .pm1_control = kPmBase + chipset::AcpiPm::kControl,
                                  .pm_timer = kPmBase + chipset::AcpiPm::kTimer,
                                  .gpe0 = kGpe0,
                                  .gpe0_length = kGpePorts,
                                  .acpi_enable = chipset::AcpiPm::kAcpiEnable,
                                  .acpi_disable = chipset::AcpiPm::kAcpiDisable,
                                  .sci = kIrqSci};
    d.reset_port = kResetControl;
    d.serial = serial_->acpi();
    d.fw_cfg_port = devices::FwCfg::kPort;
    d.pci = acpi::Description::Pci{.memory32 = {kMostLowRam, kPciHoleEnd.value - 1},
                                   .memory64 = {window, window + MemoryLayout::kPciWindow64Size - 1},
                                   .ecam = {},
                                   .first_gsi = kFirstPciGsi,
                                   .piix_links = true};
    return d;
  }

  void press_power_button() override { pm_.press_power_button(); }

 private:
  // Every source is low after its reset, yet one that was low before does not say so again: what the
  // receivers remember otherwise, of a snapshot that did not fit together, goes here.
  void lower_all_lines() {
    for (const unsigned pin : {chipset::Hpet::kPitPin, chipset::Hpet::kRtcPin}) hpet_.set_irq(pin, false);
    for (unsigned pin = 0; pin < 16; ++pin) pic_inputs_.pci().set_irq(pin, false);
    for (unsigned gsi = 0; gsi < 24; ++gsi) router_.set_irq(gsi, false);
  }

  void place_chips() {
    ports_.add("pic 1", pic_.master_ports(), 0x20, 2);
    ports_.add("pic 2", pic_.slave_ports(), 0xa0, 2);
    ports_.add("elcr", pic_.elcr_ports(), 0x4d0, 2);
    ports_.add("pit", pit_.ports(), 0x40, 4);
    ports_.add("pit control", pit_.control_port(), 0x61, 1);
    ports_.add("rtc", rtc_.ports(), 0x70, 2);
    ports_.add("rtc extended", rtc_.extended_ports(), 0x72, 2);
    ports_.add("i8042 data", i8042_.data_port(), 0x60, 1);
    ports_.add("i8042 command", i8042_.command_port(), 0x64, 1);
    ports_.add("port 92", port92_, 0x92, 1);
    ports_.add("acpi gpe", pm_.gpe_ports(), kGpe0, kGpePorts);
    ports_.add("smi", pm_.smi_ports(), 0xb2, 2);
    for (unsigned i = 0; i < ide::PiixIde::kChannels; ++i) {
      const ide::PiixIde::Ports& at = ide::PiixIde::kPorts[i];
      ports_.add(fmt::format("ide {}", i), ide_->channel(i).command_ports(), at.command, 8);
      ports_.add(fmt::format("ide {} control", i), ide_->channel(i).control_port(), at.control, 1);
    }
    ports_.add("pvpanic", panic_, 0x505, 1);
    ports_.add("fw_cfg", fw_cfg_, devices::FwCfg::kPort, devices::FwCfg::kPorts);
    ports_.add("pci config", config_ports_, pci::ConfigPorts::kFirstPort, pci::ConfigPorts::kPorts);
    memory_.add("io apic", io_apic_, kIoApic.value, chipset::IoApic::kSize, 1, 4);
    // Without it nobody can turn it on: it only passes on the interrupts of the 8254 and the clock.
    if (with_hpet_) memory_.add("hpet", hpet_, kHpet.value, chipset::Hpet::kSize, 1);
    {
      memory::Transaction change(core_.ports());
      change.add(pm_block_, 0, pm_region_);
      change.add(core_.ports().root(), 0, pci_ports_, -1);  // BARs show where no fixed chip is
    }
    memory::Transaction(core_.memory()).add(core_.memory().root(), 0, pci_memory_, -1);
  }

  void fill_fw_cfg() {
    using devices::FwCfg;
    const auto& config = core_.config();
    fw_cfg_.set_number(FwCfg::kRamSize, uint64_t{config.memory_bytes});
    fw_cfg_.set_number(FwCfg::kCpuCount, static_cast<uint16_t>(config.cpus));
    fw_cfg_.set_number(FwCfg::kMaxCpus, static_cast<uint16_t>(config.max_cpus));
    fw_cfg_.set_number(FwCfg::kNoGraphic, uint16_t{1});
    std::vector<uint8_t> map;
    for (const auto& entry : core_.layout().e820()) {
      const size_t at = map.size();
      map.resize(at + 20);
      store_le(&map[at], entry.start.value);
      store_le(&map[at + 8], entry.size);
      store_le(&map[at + 16], static_cast<uint32_t>(entry.type));
    }
    fw_cfg_.add_file("etc/e820", std::move(map));
  }

  Core& core_;
  const bool with_hpet_;
  accel::kvm::Irqchip* const kernel_;
  FixedRegions ports_, memory_;
  chipset::PicPair pic_;
  PicInputs pic_inputs_;
  chipset::IoApic io_apic_;
  chipset::IrqRouter router_;
  chipset::Hpet hpet_;
  chipset::Pit pit_;
  chipset::Rtc rtc_;
  chipset::I8042 i8042_;
  chipset::AcpiPm pm_;
  chipset::Port92 port92_;
  chipset::ResetControl reset_control_;
  chipset::PvPanic panic_;
  devices::FwCfg fw_cfg_;
  std::unique_ptr<SerialPorts> serial_;
  std::unique_ptr<chipset::DebugPort> debug_port_;
  memory::ContainerRegion pm_block_;
  memory::IoRegion pm_region_;
  memory::ContainerRegion pci_memory_, pci_ports_;
  std::shared_ptr<pci::Piix3> piix3_;
  std::shared_ptr<ide::PiixIde> ide_;
  pci::Bus pci_;
  pci::ConfigPorts config_ports_;
};

}  // namespace

Result<std::unique_ptr<Board>> PcBoard::create(Core& core, Backends& backends,
                                               chipset::SystemRequests& requests) {
  TRY_ASSIGN(const int64_t start, rtc_start_seconds(core.config()));
  TRY_ASSIGN(const MachineProperties properties, machine_properties(core.config()));
  auto board = std::make_unique<Pc>(core, requests, start, properties.hpet);
  TRY(board->add_functions());
  TRY(board->add_character_devices(backends));
  return std::unique_ptr<Board>(std::move(board));
}

}  // namespace ostler::machine
