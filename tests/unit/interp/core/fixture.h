// A vCPU on the interpreter's run loop for the tests of its core: 64-bit supervisor code in 4 MiB of RAM,
// mapped one to one with 4 KiB pages (another alias at kAlias), a GDT, and an IDT whose gates lead to one HLT
// each.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "support/engine.h"
#include "x86/cpu_model.h"

namespace ostler::interp {

inline constexpr uint64_t kRam = 4 << 20, kAlias = uint64_t{1} << 30;
inline constexpr uint64_t kText = 0x10000, kStackTop = 0x20000, kHeap = 0x30000, kHandlers = 0x8000,
                          kIdt = 0x2000, kGdt = 0x1000, kTables = 0x300000;

// Memory that vCPUs share.
struct Board {
  Board();
  void set_page(uint64_t linear, uint64_t entry);  // the last-level entry of one of the first 512 pages
  template <class T>
  T peek(uint64_t phys) const {
    return load_le<T>(block->host() + phys);
  }
  // As DMA writes: the vCPUs are told.
  template <class T>
  void poke(uint64_t phys, T value) {
    store_le<T>(block->host() + phys, value);
    space.ram_written(*block, phys, sizeof value);
  }
  void code_at(uint64_t phys, std::initializer_list<uint8_t> bytes) {
    for (const uint8_t byte : bytes) poke(phys++, byte);
  }

  std::shared_ptr<memory::RamBlock> block;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram;
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  test::EngineMachine engine{space, code};
};

class World final : public Environment {
 public:
  uint32_t port_read(uint16_t, unsigned) override {
    if (on_port_read) on_port_read();
    return 0x5a;
  }
  void port_write(uint16_t, unsigned, uint32_t) override {}
  uint64_t tsc() override { return 0; }
  const x86::VcpuInfo& vcpu_info() const override { return info_; }
  uint8_t cr8() override { return 0; }
  void set_cr8(uint8_t) override {}
  std::optional<uint64_t> read_msr(uint32_t) override { return std::nullopt; }
  bool write_msr(uint32_t, uint64_t) override { return false; }
  uint64_t hypercall(const x86::Hypercall&) override { return 0; }
  std::optional<uint8_t> acknowledge_interrupt() override {
    const auto vector = interrupt;
    interrupt.reset();
    return vector;
  }

  std::function<void()> on_port_read;
  std::optional<uint8_t> interrupt;

 private:
  x86::VcpuInfo info_;
};

struct Vcpu {
  explicit Vcpu(Board& board, size_t cache_bytes = size_t{1} << 20);
  // Code at kText ends with HLT or a fault.
  Exit run(std::initializer_list<uint8_t> bytes, int64_t most = 1'000'000) {
    board.code_at(kText, bytes);
    s.rip = kText;
    s.activity = x86::Activity::kRunning;
    return interpreter.run(most);
  }
  const x86::Exception& exception() const { return interpreter.exception(); }

  Board& board;
  x86::CpuModel model;
  World world;
  test::EngineVcpu vcpu;
  x86::CpuState& s = vcpu.state();
  mmu::SoftMmu& mmu = vcpu.mmu();
  Interpreter& interpreter = vcpu.interpreter();
};

}  // namespace ostler::interp
