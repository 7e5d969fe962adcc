#include <array>

#include "devices/chipset/acpi_pm.h"
#include "devices/chipset/acpi_reduced.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/hpet.h"
#include "devices/chipset/i8042.h"
#include "devices/chipset/io_apic.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/kvm_clock.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/pit.h"
#include "devices/chipset/rtc.h"
#include "devices/chipset/system_ports.h"
#include "devices/chipset/uart.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "rigs/rigs.h"

namespace ostler::rigs {
namespace {

using chipset::FakeBackend;
using chipset::FakeCpu;
using chipset::FakeIrqs;
using chipset::FakeRequests;
using chipset::FakeTsc;

class LocalApicRig final : public Rig {
 public:
  LocalApicRig() { apic_.attach(cpu_); }
  state::Savable& device() override { return apic_; }
  std::vector<Range> ranges() override { return {{&apic_, 0x1000}}; }
  void stimulate(uint32_t random) override {
    const auto byte = static_cast<uint8_t>(random >> 8);
    switch (random % 8) {
      case 0:
        apic_.acknowledge();
        return;
      case 1:
        apic_.set_cr8(byte & 15);
        return;
      case 2:
        bus_.send_msi({0xfee00000 | (random & 0xffffc)}, random >> 4);
        return;
      case 3:
        apic_.write_msr(0x1b, 0xfee00000 | (byte & 0xc) << 8);
        return;
      case 4:
        apic_.write_msr(0x800 + byte, random >> 16);
        return;
      case 5:
        apic_.read_msr(0x800 + byte);
        return;
      case 6:
        apic_.write_msr(0x6e0, tsc_.guest_tsc() + (random >> 8));
        return;
      default:
        bus_.set_irq(byte & 1, (byte & 2) != 0);
        return;
    }
  }

 private:
  FakeTsc tsc_{bench.clock};
  chipset::ApicBus bus_;
  FakeCpu cpu_;
  chipset::LocalApic apic_{chipset::LocalApic::Options{.bootstrap = true}, bus_, bench.loop, tsc_};
};

class IoApicRig final : public Rig {
 public:
  state::Savable& device() override { return io_apic_; }
  std::vector<Range> ranges() override { return {{&io_apic_, chipset::IoApic::kSize}, {&io_apic_, 0x44}}; }
  void stimulate(uint32_t random) override {
    if (random % 4 == 0)
      io_apic_.end_of_interrupt(static_cast<uint8_t>(random >> 8));
    else
      io_apic_.set_irq(random >> 8 & 31, (random >> 16 & 1) != 0);
  }

 private:
  FakeTsc tsc_{bench.clock};
  chipset::ApicBus bus_;
  chipset::IoApic io_apic_{bus_, 0};
  chipset::LocalApic apic_{chipset::LocalApic::Options{}, bus_, bench.loop, tsc_};
};

class PicRig final : public Rig {
 public:
  state::Savable& device() override { return pic_; }
  std::vector<Range> ranges() override {
    return {{&pic_.master_ports(), 2}, {&pic_.slave_ports(), 2}, {&pic_.elcr_ports(), 2}};
  }
  void stimulate(uint32_t random) override {
    if (random % 4 == 0)
      pic_.acknowledge();
    else
      pic_.set_irq(random >> 8 & 15, (random >> 16 & 1) != 0);
  }

 private:
  FakeIrqs irqs_;
  chipset::PicPair pic_{bus::IrqLine(irqs_, 0)};
};

class PitRig final : public Rig {
 public:
  state::Savable& device() override { return pit_; }
  std::vector<Range> ranges() override { return {{&pit_.ports(), 4}, {&pit_.control_port(), 1}}; }

 private:
  FakeIrqs irqs_;
  chipset::Pit pit_{bench.loop, bus::IrqLine(irqs_, 0)};
};

class RtcRig final : public Rig {
 public:
  state::Savable& device() override { return rtc_; }
  std::vector<Range> ranges() override { return {{&rtc_.ports(), 2}, {&rtc_.extended_ports(), 2}}; }
  // Random indices seldom hit the clock: go there on purpose.
  void stimulate(uint32_t random) override {
    rtc_.ports().io_write(0, 1, random & 15);
    rtc_.ports().io_write(1, 1, random >> 8 & 0xff);
  }

 private:
  FakeIrqs irqs_;
  chipset::Rtc rtc_{bench.loop, bus::IrqLine(irqs_, 8), 1'774'915'199};
};

class UartRig final : public Rig {
 public:
  state::Savable& device() override { return uart_; }
  std::vector<Range> ranges() override { return {{&uart_, chipset::Uart::kSize}}; }
  void stimulate(uint32_t random) override {
    switch (random % 4) {
      case 0:
        backend_.room = random >> 8 & 3;
        uart_.writable();
        return;
      case 1:
        uart_.event(chardev::CharEvent::kBreak);
        return;
      default:
        backend_.type("0123456789abcdef0123");
        return;
    }
  }
  void check() override { backend_.output.clear(); }

 private:
  FakeIrqs irqs_;
  FakeBackend backend_;
  chipset::Uart uart_{bench.loop, bus::IrqLine(irqs_, 4), &backend_};
};

class HpetRig final : public Rig {
 public:
  state::Savable& device() override { return hpet_; }
  // The registers in use are few: the second view meets them more often.
  std::vector<Range> ranges() override { return {{&hpet_, chipset::Hpet::kSize}, {&hpet_, 0x168}}; }
  void stimulate(uint32_t random) override {
    if (random % 2 == 0)
      hpet_.io_write(0x10, 8, random >> 8 & 3);
    else
      hpet_.set_irq(random >> 8 & 1, (random >> 9 & 1) != 0);
  }

 private:
  struct Nowhere final : bus::MsiSink {
    void send_msi(GuestPhys, uint32_t) override {}
  };
  FakeIrqs irqs_;
  Nowhere msi_;
  chipset::Hpet hpet_{bench.loop, irqs_, &msi_};
};

class AcpiPmRig final : public Rig {
 public:
  state::Savable& device() override { return pm_; }
  std::vector<Range> ranges() override {
    return {{&pm_.pm_ports(), 64}, {&pm_.gpe_ports(), 4}, {&pm_.smi_ports(), 2}};
  }
  void stimulate(uint32_t random) override {
    if (random % 2 == 0)
      pm_.press_power_button();
    else
      pm_.raise_gpe(random >> 8);
  }

 private:
  FakeIrqs irqs_;
  FakeRequests requests_;
  chipset::AcpiPm pm_{bench.loop, bus::IrqLine(irqs_, 9), requests_};
};

class AcpiReducedRig final : public Rig {
 public:
  state::Savable& device() override { return pm_; }
  std::vector<Range> ranges() override { return {{&pm_.event_registers(), 4}, {&pm_.sleep_registers(), 3}}; }
  void stimulate(uint32_t) override { pm_.press_power_button(); }

 private:
  FakeIrqs irqs_;
  FakeRequests requests_;
  chipset::AcpiReduced pm_{bus::IrqLine(irqs_, 5), requests_};
};

class I8042Rig final : public Rig {
 public:
  state::Savable& device() override { return controller_; }
  std::vector<Range> ranges() override {
    return {{&controller_.data_port(), 1}, {&controller_.command_port(), 1}};
  }
  void stimulate(uint32_t random) override {
    const std::array codes = {static_cast<uint8_t>(random), static_cast<uint8_t>(random >> 8)};
    controller_.put_key(codes);
  }

 private:
  FakeIrqs irqs_;
  FakeRequests requests_;
  chipset::I8042 controller_{bus::IrqLine(irqs_, 1), bus::IrqLine(irqs_, 12), requests_};
};

class KvmClockRig final : public Rig {
 public:
  KvmClockRig() {
    memory::Transaction change(space_);
    change.add(space_.root(), 0, ram_);
  }
  state::Savable& device() override { return clock_; }
  std::vector<Range> ranges() override { return {}; }
  void stimulate(uint32_t random) override {
    constexpr uint32_t kMsrs[] = {0x11, 0x12, 0x4b564d00, 0x4b564d01};
    clock_.write_msr(kMsrs[random & 3], random >> 2 & 0xffff);
  }

 private:
  FakeTsc tsc_{bench.clock};
  memory::AddressSpace space_{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block_ = *memory::RamBlock::create({.name = "ram", .size = 0x4000});
  memory::RamRegion ram_{"ram", block_};
  chipset::KvmClockBase base_{bench.clock, 0};
  chipset::KvmClock clock_{base_, tsc_, space_};
};

template <class Port>
class PortRig final : public Rig {
 public:
  state::Savable& device() override { return port_; }
  std::vector<Range> ranges() override { return {{&port_, 1}}; }

 private:
  FakeRequests requests_;
  Port port_{requests_};
};

class WiredOrRig final : public Rig {
 public:
  state::Savable& device() override { return line_; }
  std::vector<Range> ranges() override { return {}; }
  void stimulate(uint32_t random) override { line_.set_irq(random & 63, (random >> 8 & 1) != 0); }

 private:
  FakeIrqs irqs_;
  chipset::WiredOr line_{bus::IrqLine(irqs_, 10)};
};

template <class T>
Kind kind(std::string name) {
  return {std::move(name), [] { return std::make_unique<T>(); }};
}

}  // namespace

std::vector<Kind> chipset_kinds() {
  return {
      kind<LocalApicRig>("local_apic"),
      kind<IoApicRig>("io_apic"),
      kind<PicRig>("pic"),
      kind<PitRig>("pit"),
      kind<RtcRig>("rtc"),
      kind<UartRig>("uart"),
      kind<HpetRig>("hpet"),
      kind<AcpiPmRig>("acpi_pm"),
      kind<AcpiReducedRig>("acpi_reduced"),
      kind<I8042Rig>("i8042"),
      kind<KvmClockRig>("kvm_clock"),
      kind<PortRig<chipset::Port92>>("port_92"),
      kind<PortRig<chipset::ResetControl>>("reset_control"),
      kind<WiredOrRig>("wired_or"),
  };
}

}  // namespace ostler::rigs
