// What connects local APICs, I/O APICs and message-signalled interrupts (SDM 3A §11.6.2, §11.11), and the
// page through which vCPUs see their own APIC. Any thread. The set of APICs is fixed before the machine runs,
// so that routing needs no lock; what it looks at in an APIC (id, mode, logical id) is atomic.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "bus/io_handler.h"
#include "bus/irq.h"
#include "bus/kernel_apics.h"
#include "devices/chipset/apic_message.h"

namespace ostler::chipset {

class LocalApic;

// An I/O APIC, told of every end-of-interrupt of a level-triggered vector.
class EoiSink {
 public:
  virtual ~EoiSink() = default;
  virtual void end_of_interrupt(uint8_t vector) = 0;
};

// The 8259 pair, asked in the INTA cycle of an ExtINT.
class ExtIntSource {
 public:
  virtual ~ExtIntSource() = default;
  virtual uint8_t acknowledge() = 0;
};

// Pin 0 of the IrqSink: the INTR output of the 8259 pair, wired to LINT0 of every APIC. Pin 1: NMI, wired to
// LINT1.
class ApicBus final : public bus::MsiSink, public bus::IrqSink {
 public:
  static constexpr unsigned kIntrPin = 0;
  static constexpr unsigned kNmiPin = 1;
  static constexpr uint32_t kBroadcast = 0xffffffff;  // as a wide destination

  // Construction time only. APIC ids are unique and below 255.
  void add(LocalApic& apic);
  void remove(LocalApic& apic);
  void add_eoi_sink(EoiSink& sink);  // an IoApic adds itself; twice is once
  void set_ext_int_source(ExtIntSource& source) { ext_int_ = &source; }

  // Construction time: the local APICs are the kernel's, ours only keep their state.
  void set_kernel(bus::KernelApics& kernel) { kernel_ = &kernel; }
  bool in_kernel() const { return kernel_ != nullptr; }

  void send(const ApicMessage& message);
  void unhalt(uint64_t id);  // CpuEvents::unhalt() for the vCPU with this APIC id, if there is one
  void pin_sends(unsigned pin, const ApicMessage& message);  // of an I/O APIC: see bus::KernelApics
  void send_to_all(const ApicMessage& message, const LocalApic* except);
  void send_msi(GuestPhys address, uint32_t data) override;
  void set_irq(unsigned pin, bool level) override;
  void broadcast_eoi(uint8_t vector);
  uint8_t acknowledge_ext_int();

  // How many APICs a message would reach: for tests and `info`.
  unsigned matching(const ApicMessage& message) const;

 private:
  template <class Visit>
  void for_each_match(const ApicMessage& message, Visit&& visit) const;

  std::vector<LocalApic*> apics_;
  std::array<LocalApic*, 256> by_id_{};
  std::vector<EoiSink*> eoi_sinks_;
  ExtIntSource* ext_int_ = nullptr;
  bus::KernelApics* kernel_ = nullptr;
  std::atomic<unsigned> arbitration_{0};  // where the search for the lowest priority starts
};

// 0xfee00000-0xfeefffff. A vCPU reaches its own APIC in the first page, whichever thread it is: each vCPU
// thread binds its APIC first. A write from elsewhere is a device's MSI.
class ApicPage final : public bus::IoHandler {
 public:
  static constexpr uint64_t kBase = 0xfee00000;
  static constexpr uint64_t kSize = 0x100000;

  explicit ApicPage(ApicBus& bus) : bus_(bus) {}
  static void bind_to_this_thread(LocalApic* apic);

  std::string_view name() const override { return "local-apic"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

 private:
  ApicBus& bus_;
};

}  // namespace ostler::chipset
