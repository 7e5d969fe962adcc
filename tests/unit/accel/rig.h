// One vCPU on any engine, in a small world whose memory map real mode reaches:
//
//   0        RAM, 768 KiB       0xd0000  a device's registers, 4 KiB
//   0xc0000  ROM, 64 KiB        0xe0000  nothing, 64 KiB       0xf0000  again the RAM at 0x10000, 4 KiB
//
// Guest code is at kCode, its stack ends at kStack. A write to port kStopPort stops the vCPU.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "accel/engine.h"
#include "accel/kvm/kvm_engine.h"
#include "accel/kvm/vm.h"
#include "accel/paravirt.h"
#include "bt/shared.h"
#include "bus/cpu_events.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "x86/cpu_model.h"
#include "x86/state.h"

namespace ostler::accel {

inline constexpr uint64_t kRamSize = 0xc0000, kRom = 0xc0000, kDevice = 0xd0000, kHole = 0xe0000,
                          kAlias = 0xf0000, kAliased = 0x10000, kCode = 0x1000, kStack = 0x8000,
                          kData = 0x20000, kIdt = 0x9000, kGdt = 0xa000, kPageTables = 0xb000;
inline constexpr uint16_t kStopPort = 0x80, kDataPort = 0x90;

enum class Mode { kReal, kProtected, kLong };

// What the guest did, in its order: "out 90.2 1234".
class Recorder final : public bus::IoHandler {
 public:
  Recorder(std::string name, std::vector<std::string>& log) : name_(std::move(name)), log_(log) {}
  std::string_view name() const override { return name_; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  std::function<void(uint64_t offset, uint64_t value)> on_write;

 private:
  const std::string name_;
  std::vector<std::string>& log_;
};

class FakeInterrupts final : public bus::CpuInterrupts {
 public:
  bool pending() const override { return vector.load() >= 0 && vector.load() / 16 > priority.load(); }
  std::optional<uint8_t> acknowledge() override {
    const int taken = vector.exchange(-1);
    if (taken < 0) return std::nullopt;
    return static_cast<uint8_t>(taken);
  }
  uint8_t cr8() const override { return priority; }
  void set_cr8(uint8_t value) override { priority = value; }
  std::optional<uint64_t> read_msr(uint32_t index) override;
  bool write_msr(uint32_t index, uint64_t value) override;
  void tsc_changed() override { ++tsc_changes; }

  std::atomic<int> vector{-1};
  std::atomic<uint8_t> priority{0};
  unsigned tsc_changes = 0;
  uint64_t eois = 0;
};

class FakeParavirt final : public Paravirt {
 public:
  std::optional<uint64_t> read_msr(uint32_t index) override;
  bool write_msr(uint32_t index, uint64_t value) override;
  void tsc_changed() override {}
  uint64_t hypercall(const x86::Hypercall&) override { return 0; }
  uint64_t system_time = 0;
};

class Rig {
 public:
  Rig();
  ~Rig();

  // "interp", "bt" or "kvm"; null where the host has no KVM that is fit for use; why_no_kvm() tells, else it
  // is empty.
  std::unique_ptr<Engine> make(const std::string& engine);
  static std::string why_no_kvm();
  // For tests of the kernel's part alone, which exist where it does: "kvm", or nothing.
  static std::vector<const char*> kvm_if_here();

  void place(std::span<const uint8_t> code, uint64_t address = kCode);
  // The state at the first instruction of code at kCode.
  void start(Engine& engine, Mode mode);
  // Until the guest writes to kStopPort, halts or ends otherwise.
  VcpuExit run(Engine& engine);
  template <class T>
  T peek(uint64_t address) const {
    T value;
    std::memcpy(&value, ram->host() + address, sizeof value);
    return value;
  }
  template <class T>
  void poke(uint64_t address, T value) {
    std::memcpy(ram->host() + address, &value, sizeof value);
    memory.ram_written(*ram, address, sizeof value);
  }

  // Of a KVM engine whose vCPU is number 0, once there is a vm.
  kvm::EngineContext engine_context();

  std::shared_ptr<memory::RamBlock> ram, rom;
  memory::AddressSpace memory{"memory", memory::AddressSpace::kMemorySize};
  memory::AddressSpace ports{"ports", memory::AddressSpace::kPortSize};
  std::vector<std::string> log;
  Recorder device{"mem", log}, port{"port", log};
  memory::RamRegion ram_region;
  memory::RomRegion rom_region;
  memory::AliasRegion alias;
  memory::IoRegion device_region{"device", device, 4096, 8};
  memory::IoRegion port_region{"ports", port, memory::AddressSpace::kPortSize, 4};
  mmu::VcpuGroup group;
  mmu::CodePages code{memory, group};
  std::unique_ptr<bt::Shared> translator;
  std::unique_ptr<kvm::Vm> vm;
  std::optional<kvm::Irqchip::Mode> irqchip;  // of vm
  uint32_t dirty_ring_entries = 0;            // the same
  FakeInterrupts interrupts;
  uint32_t apic_id = 0;
  bus::CpuInterrupts* apic = &interrupts;  // of the engines made next
  x86::CpuModel model;
  FakeParavirt paravirt;

 private:
  unsigned kvm_vcpus_ = 0;
};

}  // namespace ostler::accel
