// A machine of 16 MiB for what every engine must keep: the first 4 MiB are mapped one to one, in 4 KiB pages,
// for the supervisor, in every address space; tests map more. vCPUs start in 64-bit mode at CPL 0; exceptions
// end run() instead of being delivered.
#pragma once

#include <gtest/gtest.h>

#include <atomic>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "code.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "support/engine.h"
#include "x86/cpu_model.h"

namespace ostler::test {

inline constexpr uint64_t kRam = 16 << 20, kIdentity = 4 << 20;
inline constexpr uint64_t kGdt = 0x1000, kText = 0x10000, kStackTop = 0x20000, kHeap = 0x30000;
// Linear addresses that no space maps by itself.
inline constexpr uint64_t kFree = uint64_t{1} << 30;
inline constexpr uint64_t kKernelCode = 0x08, kKernelData = 0x10, kUserData = 0x20, kUserCode = 0x28;

// Page table entries, SDM Vol. 3A Table 4-20.
namespace pte {
inline constexpr uint64_t kP = 1, kW = 2, kU = 4, kA = 0x20, kD = 0x40, kPs = 0x80, kG = 0x100,
                          kNx = uint64_t{1} << 63;
}

class Nobody final : public interp::Environment {
 public:
  uint32_t port_read(uint16_t, unsigned) override { return 0xffffffff; }
  void port_write(uint16_t, unsigned, uint32_t) override {}
  uint64_t tsc() override { return 0; }
  const x86::VcpuInfo& vcpu_info() const override { return info_; }
  uint8_t cr8() override { return 0; }
  void set_cr8(uint8_t) override {}
  std::optional<uint64_t> read_msr(uint32_t) override { return std::nullopt; }
  bool write_msr(uint32_t, uint64_t) override { return false; }
  uint64_t hypercall(const x86::Hypercall&) override { return 0; }
  std::optional<uint8_t> acknowledge_interrupt() override { return std::nullopt; }

 private:
  x86::VcpuInfo info_;
};

struct Machine {
  Machine();

  template <class T>
  T peek(uint64_t phys) const {
    return load_le<T>(block->host() + phys);
  }
  // As DMA writes: the vCPUs are told. Any thread.
  template <class T>
  void poke(uint64_t phys, T value) {
    reinterpret_cast<std::atomic<T>*>(block->host() + phys)->store(value, std::memory_order_release);
    space.ram_written(*block, phys, sizeof value);
  }
  void put(uint64_t phys, const Code& program) {
    for (const uint8_t byte : program.bytes()) poke(phys++, byte);
  }
  uint64_t new_page() { return next_page_ += 4096; }

  std::shared_ptr<memory::RamBlock> block;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram;
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  EngineMachine engine{space, code};

 private:
  uint64_t next_page_ = kIdentity;  // pages that the identity map does not show
};

// An address space: page tables in pages of their own.
class Space {
 public:
  explicit Space(Machine& machine);
  uint64_t root() const { return root_; }
  // Where the entry for `linear` is, in physical memory; level 1 is the 4 KiB page, 2 the 2 MiB page. Makes
  // the tables above it, which allow everything.
  uint64_t entry(uint64_t linear, unsigned level = 1);
  void map(uint64_t linear, uint64_t phys, uint64_t flags, unsigned level = 1) {
    machine_.poke<uint64_t>(entry(linear, level), phys | flags);
  }
  // Makes the table with the entry for `linear` visible to guest code: the entry's linear address.
  uint64_t window(uint64_t linear, unsigned level = 1);

 private:
  Machine& machine_;
  uint64_t root_;
  uint64_t next_window_ = kFree + (uint64_t{1} << 29);
};

struct Vcpu {
  Vcpu(Machine& machine, Space& space);

  // Runs from `rip` until HLT or an exception.
  interp::Exit go(uint64_t rip, int64_t most = 50'000'000);
  // Puts the code at kText and runs it.
  interp::Exit run(const Code& code) {
    machine.put(kText, code);
    return go(kText);
  }
  // Runs `code`, which must come to its HLT.
  void finish(const Code& code) {
    EXPECT_EQ(run(code), interp::Exit::kHalted) << "exception " << static_cast<int>(exception().vector)
                                                << " at " << std::hex << s.rip << " cr2 " << exception().cr2;
  }
  // Goes on at the instruction that raised the exception.
  interp::Exit again() { return go(s.rip); }
  // The rest of the run is at CPL 3 or 0. As the guest would by IRET; nothing else is flushed.
  void set_cpl(unsigned cpl);
  const x86::Exception& exception() const { return interpreter.exception(); }
  uint64_t& reg(unsigned index) { return s.gpr[index]; }

  Machine& machine;
  x86::CpuModel model;
  Nobody world;
  EngineVcpu parts;
  x86::CpuState& s = parts.state();
  interp::Interpreter& interpreter = parts.interpreter();
};

// Error codes of #PF, SDM Vol. 3A Figure 4-12.
namespace pf {
inline constexpr uint32_t kP = 1, kW = 2, kU = 4, kRsvd = 8, kI = 16;
}
void expect_page_fault(const Vcpu& cpu, uint64_t address, uint32_t error);

}  // namespace ostler::test
