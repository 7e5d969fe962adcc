// What every x86 machine has before any board is chosen: clocks, guest memory, local APICs, vCPUs.
// Built once, in the order of the members; destroyed in the opposite order, vCPU threads first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "accel/vcpu.h"
#include "base/result.h"
#include "config/machine.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/kvm_clock.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/system_requests.h"
#include "devices/chipset/tsc_clock.h"
#include "event/loop.h"
#include "machine/guest_ram.h"
#include "machine/memory_layout.h"
#include "machine/tsc_base.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/vcpu_group.h"
#include "x86/cpu_model.h"

namespace ostler::bt {
class Shared;
}
namespace ostler::accel::kvm {
class Irqchip;
class Vm;
}  // namespace ostler::accel::kvm

namespace ostler::machine {

class Processor;

class Core {
 public:
  // Errors: CPU model, accelerator, memory that the host does not have.
  static Result<std::unique_ptr<Core>> create(const config::Machine& config,
                                              chipset::SystemRequests& requests);
  ~Core();

  const config::Machine& config() const { return config_; }
  const MemoryLayout& layout() const { return layout_; }
  const x86::CpuModel& model() const { return model_; }
  event::Loop& loop() { return loop_; }
  memory::AddressSpace& memory() { return memory_; }
  memory::AddressSpace& ports() { return ports_; }
  const GuestRam& ram() const { return ram_; }
  chipset::ApicBus& apic_bus() { return apic_bus_; }
  size_t cpu_count() const { return processors_.size(); }
  // What the user should know once the machine stands.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // The interrupt controllers in the host's kernel; null: all are ours.
  accel::kvm::Irqchip* kernel_irqchip() const;
  bool takes_doorbells() const { return vm_ != nullptr; }  // see bus/doorbells.h
  accel::Vcpu& vcpu(size_t index);
  chipset::LocalApic& local_apic(size_t index);
  std::vector<uint32_t> apic_ids() const;
  acpi::Numa numa() const { return ram_.numa(layout_); }

  // ---- control thread ----
  void start_vcpus();  // threads, paused
  void stop_vcpus();   // ends the threads
  void pause();        // vCPUs, then the virtual clock
  void resume();
  void reset();                         // while paused: APICs and vCPUs
  void state(state::Archive& archive);  // while paused: clock, APICs, vCPUs; not memory
  void set_fpu_error(bus::IrqLine line) { fpu_error_ = line; }  // before vCPUs start

 private:
  Core(const config::Machine& config, x86::CpuModel model, GuestRam ram);
  Result<std::unique_ptr<accel::Engine>> make_engine(unsigned index, Processor& processor,
                                                     const x86::VcpuInfo& info);

  const config::Machine config_;
  const MemoryLayout layout_;
  const x86::CpuModel model_;
  std::vector<std::string> warnings_;
  event::VirtualClock clock_;
  event::Loop loop_;
  GuestRam ram_;
  memory::AddressSpace memory_, ports_;
  TscBase tsc_;
  chipset::KvmClockBase kvm_clock_;
  mmu::VcpuGroup group_;
  mmu::CodePages code_;
  chipset::ApicBus apic_bus_;
  chipset::ApicPage apic_page_;
  memory::IoRegion apic_region_;
  bus::IrqLine fpu_error_;
  std::unique_ptr<bt::Shared> translator_;
  std::unique_ptr<accel::kvm::Vm> vm_;
  std::vector<std::unique_ptr<Processor>> processors_;
};

}  // namespace ostler::machine
