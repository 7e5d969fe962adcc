#include "machine/pc_board.h"

#include <fmt/format.h>

#include <ctime>
#include <vector>

#include "devices/chipset/io_apic.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/pit.h"
#include "devices/chipset/rtc.h"
#include "devices/chipset/uart.h"
#include "devices/fw_cfg/fw_cfg.h"
#include "machine/backends.h"
#include "machine/core.h"
#include "machine/legacy.h"

namespace ostler::machine {
namespace {

constexpr unsigned kIrqTimer = 0, kIrqRtc = 8, kIrqFpu = 13;

class Pc final : public Board {
 public:
  Pc(Core& core, chipset::SystemRequests& requests, int64_t rtc_start)
      : core_(core),
        requests_(requests),
        pic_({core.apic_bus(), chipset::ApicBus::kIntrPin}),
        io_apic_(core.apic_bus(), 0),
        router_(&pic_, io_apic_),
        pit_(core.loop(), router_.line(kIrqTimer)),
        rtc_(core.loop(), router_.line(kIrqRtc), rtc_start),
        fw_cfg_(core.memory()),
        io_apic_region_("io-apic", io_apic_, chipset::IoApic::kSize, 4) {
    core.apic_bus().set_ext_int_source(pic_);
    core.apic_bus().add_eoi_sink(io_apic_);
    core.set_fpu_error(router_.line(kIrqFpu));
    place_chips();
  }

  Result<void> add_serial_ports(Backends& backends) {
    TRY_ASSIGN(serial_, SerialPorts::create(core_, backends, router_));
    return {};
  }

  void reset() override {
    pic_.reset();
    io_apic_.reset();
    pit_.reset();
    rtc_.reset();
    fw_cfg_.reset();
    serial_->reset();
  }

  void state(state::Archive& archive) override {
    archive.section("pc", 1);
    pic_.state(archive);
    io_apic_.state(archive);
    pit_.state(archive);
    rtc_.state(archive);
    fw_cfg_.state(archive);
    serial_->state(archive);
  }

  acpi::Description acpi() const override {
    acpi::Description description;
    description.apic_ids = core_.apic_ids();
    description.serial = serial_->acpi();
    return description;
  }

  void press_power_button() override {}

 private:
  void place_chips() {
    const auto port = [&](const char* name, bus::IoHandler& handler, uint16_t at, uint64_t count) {
      port_regions_.push_back(std::make_unique<memory::IoRegion>(name, handler, count));
      ports_at_.push_back(at);
    };
    port("pic1", pic_.master_ports(), 0x20, 2);
    port("pic2", pic_.slave_ports(), 0xa0, 2);
    port("elcr", pic_.elcr_ports(), 0x4d0, 2);
    port("pit", pit_.ports(), 0x40, 4);
    port("pit control", pit_.control_port(), 0x61, 1);
    port("rtc", rtc_.ports(), 0x70, 2);
    port("rtc extended", rtc_.extended_ports(), 0x72, 2);
    port("fw_cfg", fw_cfg_, devices::FwCfg::kPort, devices::FwCfg::kPorts);
    memory::Transaction change(core_.ports());
    for (size_t i = 0; i < port_regions_.size(); ++i)
      change.add(core_.ports().root(), ports_at_[i], *port_regions_[i]);
    memory::Transaction memory_change(core_.memory());
    memory_change.add(core_.memory().root(), kIoApic.value, io_apic_region_, 1);
  }

  Core& core_;
  chipset::SystemRequests& requests_;
  chipset::PicPair pic_;
  chipset::IoApic io_apic_;
  chipset::IrqRouter router_;
  chipset::Pit pit_;
  chipset::Rtc rtc_;
  devices::FwCfg fw_cfg_;
  std::unique_ptr<SerialPorts> serial_;
  memory::IoRegion io_apic_region_;
  std::vector<std::unique_ptr<memory::IoRegion>> port_regions_;
  std::vector<uint16_t> ports_at_;
};

}  // namespace

Result<std::unique_ptr<Board>> PcBoard::create(Core& core, Backends& backends,
                                               chipset::SystemRequests& requests) {
  TRY_ASSIGN(const int64_t start, rtc_start_seconds(core.config()));
  auto board = std::make_unique<Pc>(core, requests, start);
  TRY(board->add_serial_ports(backends));
  return std::unique_ptr<Board>(std::move(board));
}

}  // namespace ostler::machine
