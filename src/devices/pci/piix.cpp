#include "devices/pci/piix.h"

#include "devices/pci/bus.h"

namespace ostler::pci {
namespace {

constexpr uint16_t kVendorIntel = 0x8086;
constexpr uint16_t kSubsystemVendor = 0x1af4, kSubsystem = 0x1100;

Identity identity(uint16_t device, uint8_t revision, uint32_t class_code) {
  return {.vendor = kVendorIntel,
          .device = device,
          .revision = revision,
          .class_code = class_code,
          .subsystem_vendor = kSubsystemVendor,
          .subsystem = kSubsystem};
}

// 82441FX §3.2: PAM0-PAM6, DRB0-7, fixed DRAM hole control, SMRAM.
constexpr uint16_t kPam0 = 0x59, kPamLast = 0x5f, kDrb0 = 0x60, kSmram = 0x72;
// 82371SB §2.2: PIRQ route control; bit 7 disables.
constexpr uint16_t kPirqRouteA = 0x60;
constexpr uint8_t kRouteDisabled = 0x80;
constexpr uint16_t kXbusChipSelect = 0x4e, kTopOfMemory = 0x69;
// 82371AB §7.2.
constexpr uint16_t kPmBase = 0x40, kPmRegMisc = 0x80;
constexpr uint32_t kPmBaseMask = 0xffc0;

// Some IRQs cannot be routed to (82371SB §2.2.10): the timer's, the keyboard's, the cascade, the RTC's
// and 13.
constexpr uint16_t kRoutable = 0xdef8;

}  // namespace

I440fxHostBridge::I440fxHostBridge() : Function("i440fx", identity(0x1237, 2, 0x060000)) {
  for (uint16_t at = kPam0; at <= kPamLast; ++at) config().allow(at, 1, at == kPam0 ? 0x30 : 0x33);
  for (uint16_t at = kDrb0; at < kDrb0 + 8; ++at) config().allow(at, 1, 0xff);
  config().set8(kSmram, 0x02);
  config().allow(kSmram, 1, 0x78);
  config().allow(reg::kCommand, 2, 0x0140);
  config().set16(reg::kCommand, 0x0006);
}

Piix3::Piix3(bus::IrqSink* pic, bus::IrqSink* io_apic, unsigned first_gsi)
    : Function("piix3", identity(0x7000, 0, 0x060100)), pic_(pic), io_apic_(io_apic), first_gsi_(first_gsi) {
  config().set16(reg::kCommand, 0x0007);
  config().allow(reg::kCommand, 2, 0);
  config().set8(0x4c, 0x4d);
  config().set16(kXbusChipSelect, 0x0003);
  config().allow(kXbusChipSelect, 2, 0x03ff);
  config().set8(kTopOfMemory, 0x02);
  config().allow(kTopOfMemory, 1, 0xfe);
  for (uint16_t i = 0; i < 4; ++i) {
    config().set8(kPirqRouteA + i, kRouteDisabled);
    config().allow(kPirqRouteA + i, 1, 0x8f);
  }
}

void Piix3::preset(const std::array<uint8_t, 4>& routes) {
  const std::lock_guard lock(mutex_);
  for (uint16_t i = 0; i < 4; ++i) config().set8(kPirqRouteA + i, routes[i]);
  config().seal();
  config_changed_locked(kPirqRouteA, 4);
}

void Piix3::config_changed_locked(uint16_t, unsigned) {
  const std::lock_guard lock(wire_mutex_);
  for (uint16_t i = 0; i < 4; ++i) routes_[i] = config().get8(kPirqRouteA + i);
  drive_pic_locked();
}

void Piix3::set_irq(unsigned wire, bool level) {
  const std::lock_guard lock(wire_mutex_);
  levels_[wire & 3] = level;
  if (io_apic_ != nullptr) io_apic_->set_irq(first_gsi_ + (wire & 3), level);
  drive_pic_locked();
}

void Piix3::drive_pic_locked() {
  uint16_t wanted = 0;
  for (unsigned i = 0; i < 4; ++i)
    if (levels_[i] && (routes_[i] & kRouteDisabled) == 0)
      wanted = static_cast<uint16_t>(wanted | 1u << (routes_[i] & 15));
  wanted &= kRoutable;
  const unsigned changed = wanted ^ driven_;
  driven_ = wanted;
  if (pic_ == nullptr) return;
  for (unsigned irq = 0; irq < 16; ++irq)
    if ((changed >> irq & 1) != 0) pic_->set_irq(irq, (wanted >> irq & 1) != 0);
}

void Piix3::device_state(state::Archive& archive) {
  const std::lock_guard lock(wire_mutex_);
  archive.section("piix3", 1);
  archive.field("levels", levels_);
  archive.field("driven", driven_);  // the controllers' own state agrees, so nothing is driven on load
}

Piix4Pm::Piix4Pm(memory::Region& pm_block)
    : Function("piix4-pm", identity(0x7113, 3, 0x068000)), pm_block_(pm_block) {
  config().set8(reg::kInterruptPin, 1);
  config().set8(reg::kInterruptLine, 9);  // the SCI, hard-wired
  config().set16(reg::kStatus, 0x0280);
  config().set32(kPmBase, 1);
  config().allow(kPmBase, 4, kPmBaseMask);
  config().allow(kPmRegMisc, 1, 1);
}

Piix4Pm::~Piix4Pm() = default;

void Piix4Pm::preset(uint16_t base) {
  const std::lock_guard lock(mutex_);
  config().set32(kPmBase, (base & kPmBaseMask) | 1);
  config().set8(kPmRegMisc, 1);
  config().seal();
  update_locked();
}

void Piix4Pm::config_changed_locked(uint16_t, unsigned) {
  update_locked();
}

void Piix4Pm::update_locked() {
  if (bus() == nullptr) return;
  const auto base = static_cast<uint16_t>(config().get32(kPmBase) & kPmBaseMask);
  const bool wanted = (config().get8(kPmRegMisc) & 1) != 0 && base != 0;
  if (wanted == mapped_ && (!wanted || base == base_)) return;
  const auto& ports = bus()->ports();
  memory::Transaction change(ports.space);
  if (wanted && mapped_)
    change.move(pm_block_, base - ports.first);
  else if (wanted)
    change.add(ports.region, base - ports.first, pm_block_);
  else
    change.remove(pm_block_);
  mapped_ = wanted;
  base_ = base;
}

}  // namespace ostler::pci
