// A vCPU with the interrupt controllers of a PC around it, in the kernel or not.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "devices/chipset/apic_bus.h"
#include "devices/chipset/io_apic.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/pic.h"
#include "machine/kernel_irqchip.h"
#include "rig.h"

// Guest code that turns the x2APIC on; it overwrites eax, ecx and edx.
#define WITH_X2APIC                                                                                     \
  "mov $0x1b, %ecx; mov $0xfee00d00, %eax; xor %edx, %edx; wrmsr; mov $0x80f, %ecx; mov $0x1ff, %eax; " \
  "wrmsr\n"
// It says at the data port how many interrupts it has seen, and stops after three.

namespace ostler::accel {

using kvm::Irqchip;

inline constexpr uint8_t kVector = 0x50;
inline constexpr uint64_t kHandler = 0x3000;

struct FixedTsc final : chipset::TscClock {
  uint64_t guest_tsc() const override { return 0; }
  uint64_t frequency() const override { return 1'000'000'000; }
};

struct Chips {
  explicit Chips(const std::string& engine_name, std::optional<Irqchip::Mode> mode = std::nullopt) {
    rig.irqchip = mode;
    rig.apic = &apic;
    engine = rig.make(engine_name);
    if (engine == nullptr) return;
    if (mode) bus.set_kernel(*rig.vm->irqchip());
    if (mode == Irqchip::Mode::kOn) {
      pic.set_kernel(rig.vm->irqchip()->pic());
      io_apic.set_kernel(rig.vm->irqchip()->io_apic());
    }
    bus.set_ext_int_source(pic);
    apic.attach(events);
    events.engine = engine.get();
    rig.poke<uint32_t>(4 * kVector, kHandler);
  }
  void start(std::span<const uint8_t> code, std::span<const uint8_t> handler) {
    rig.place(code);
    rig.place(handler, kHandler);
    rig.start(*engine, Mode::kReal);
  }
  void state(state::Archive& archive) {
    Irqchip* const kernel = rig.vm == nullptr ? nullptr : rig.vm->irqchip();
    if (kernel != nullptr && !archive.loading()) machine::take_from_kernel(*kernel, &pic, io_apic);
    engine->state(archive);
    apic.state(archive);
    pic.state(archive);
    io_apic.state(archive);
    if (kernel != nullptr && archive.loading()) machine::give_to_kernel(*kernel, &pic, io_apic);
    if (archive.loading()) engine->apic_loaded();
  }

  struct Events final : bus::CpuEvents {
    Engine* engine = nullptr;
    void interrupt_changed() override { engine->interrupt_changed(); }
    void nmi() override { engine->nmi(); }
    void smi() override {}
    void init() override {}
    void sipi(uint8_t) override {}
    void unhalt() override {}
  };
  event::VirtualClock clock;
  event::Loop loop{clock};
  FixedTsc tsc;
  chipset::ApicBus bus;
  Events events;
  chipset::LocalApic apic{{.id = 0, .bootstrap = true}, bus, loop, tsc};
  chipset::PicPair pic{bus::IrqLine(bus, chipset::ApicBus::kIntrPin)};
  chipset::IoApic io_apic{bus, 0};
  Rig rig;
  std::unique_ptr<Engine> engine;
};

}  // namespace ostler::accel
