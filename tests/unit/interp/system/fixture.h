// A vCPU in 2 MiB of flat memory for the tests of the system instructions: a GDT with one segment of each
// kind, an IDT, a task state segment and stacks, and a way to execute single instructions given as bytes.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "interp/cpu.h"
#include "interp/delivery.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "support/engine.h"
#include "x86/cpu_model.h"
#include "x86/descriptor.h"

namespace ostler::interp {

// Where things are, physical = linear unless a test turns paging on.
inline constexpr uint32_t kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kTss2 = 0x3100, kLdt = 0x3200,
                          kTss16 = 0x3300;
inline constexpr uint32_t kCode = 0x8000;     // what execute() runs
inline constexpr uint32_t kHandler = 0x9000;  // where gates lead
inline constexpr uint32_t kStack0 = 0x20000, kStack1 = 0x28000, kStack3 = 0x30000, kIst1 = 0x38000;

// Selectors of the GDT.
inline constexpr uint16_t kCode0 = 0x08, kData0 = 0x10, kCode3 = 0x18, kData3 = 0x20, kTssSel = 0x28,
                          kLdtSel = 0x30, kCode64 = 0x38, kCode64User = 0x40, kConforming = 0x48,
                          kAbsentCode = 0x50, kAbsentData = 0x58, kReadOnly = 0x60, kExecOnly = 0x68,
                          kTss2Sel = 0x70, kTss16Sel = 0x78, kCode1 = 0x80, kData1 = 0x88,
                          kCallGate = 0x90 /* and 0x98 */, kTaskGate = 0xa0, kCode16 = 0xa8, kData16 = 0xb0,
                          kTss64Sel = 0xb8 /* and 0xc0 */, kSmallData = 0xc8, kGdtEnd = 0xd0;

// Access bytes.
inline constexpr uint8_t kA_Code = 0x9a, kA_Data = 0x92, kA_Tss32 = 0x89, kA_Tss16 = 0x81, kA_Ldt = 0x82;

// A segment descriptor; `flags` are G, D/B, L, AVL from bit 3 down.
constexpr uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags) {
  return (uint64_t{limit} & 0xffff) | uint64_t{base & 0xffffff} << 16 | uint64_t{access} << 40 |
         uint64_t{(limit >> 16) & 15} << 48 | uint64_t{flags} << 52 | uint64_t{base >> 24} << 56;
}
constexpr uint64_t gate(uint16_t selector, uint32_t offset, uint8_t access, uint8_t parameters = 0) {
  return (uint64_t{offset} & 0xffff) | uint64_t{selector} << 16 | uint64_t{parameters} << 32 |
         uint64_t{access} << 40 | uint64_t{offset >> 16} << 48;
}

class FakeEnvironment : public Environment {
 public:
  uint32_t port_read(uint16_t, unsigned) override { return 0xffffffff; }
  void port_write(uint16_t, unsigned, uint32_t) override {}
  uint64_t tsc() override { return tsc_base; }
  void tsc_changed() override { ++tsc_changes; }
  const x86::VcpuInfo& vcpu_info() const override { return info; }
  uint8_t cr8() override { return cr8_value; }
  void set_cr8(uint8_t value) override { cr8_value = value; }
  std::optional<uint64_t> read_msr(uint32_t index) override {
    return index == 0x1b ? std::optional<uint64_t>(0xfee00900) : std::nullopt;
  }
  bool write_msr(uint32_t index, uint64_t) override { return index == 0x1b; }
  uint64_t hypercall(const x86::Hypercall& call) override { return call.number * 100 + call.arguments[0]; }
  std::optional<uint8_t> acknowledge_interrupt() override { return std::nullopt; }

  uint64_t tsc_base = 1000;
  int tsc_changes = 0;
  uint8_t cr8_value = 0;
  x86::VcpuInfo info;
};

inline x86::CpuModel test_model(std::string_view name) {
  x86::HostCpu host;
  host.vendor = "GenuineIntel";
  for (size_t i = 0; i < x86::kFeatureCount; ++i) host.features.set(static_cast<x86::Feature>(i));
  auto model = x86::CpuModel::parse(name, host);
  EXPECT_TRUE(model.has_value());
  return *std::move(model);
}

class Guest {
 public:
  explicit Guest(std::string_view model = "max,phys-bits=40");
  ~Guest() { mmu.participant().leave_running(); }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // ---- modes; all end with a consistent Cpu ----
  void real_mode();
  void protected_mode(unsigned cpl);  // 32-bit flat
  void v8086_mode(unsigned iopl);     // CS:IP 0x800:0, SS:SP 0x3000:0x100
  void long_mode(unsigned cpl);       // 64-bit code, identity-mapped 2 MiB pages

  // Executes one instruction at CS:RIP. Its exception, if it raised one, is not delivered.
  std::optional<x86::Exception> execute(const std::vector<uint8_t>& bytes);
  bool decodes(const std::vector<uint8_t>& bytes) const;

  // The tables as the constructor leaves them.
  void fill_tables();

  template <class T>
  T peek(uint64_t phys) const {
    return load_le<T>(block->host() + phys);
  }
  template <class T>
  void poke(uint64_t phys, T value) {
    store_le<T>(block->host() + phys, value);
  }
  void set_gdt(uint16_t selector, uint64_t value) { poke(kGdt + (selector & 0xfff8), value); }
  void set_idt(unsigned vector, uint64_t value) { poke(kIdt + vector * 8, value); }
  void set_idt64(unsigned vector, uint16_t selector, uint64_t offset, uint8_t access, unsigned ist = 0) {
    poke(kIdt + vector * 16,
         gate(selector, static_cast<uint32_t>(offset), access, static_cast<uint8_t>(ist)));
    poke<uint64_t>(kIdt + vector * 16 + 8, offset >> 32);
  }
  uint64_t& rsp() { return s.gpr[x86::kRsp]; }
  x86::Segment& cs() { return s.seg[x86::kCs]; }
  x86::Segment& ss() { return s.seg[x86::kSs]; }
  // The 32-bit words on the stack, from the top.
  uint32_t stack32(unsigned index) { return peek<uint32_t>(ss().base + rsp() + 4 * index); }
  uint64_t stack64(unsigned index) { return peek<uint64_t>(rsp() + 8 * index); }
  uint16_t stack16(unsigned index) { return peek<uint16_t>(ss().base + (rsp() & 0xffff) + 2 * index); }

  std::shared_ptr<memory::RamBlock> block;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram;
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  x86::CpuModel model;
  FakeEnvironment env;
  test::EngineMachine engine{space, code};
  test::EngineVcpu vcpu;
  x86::CpuState& s = vcpu.state();
  mmu::SoftMmu& mmu = vcpu.mmu();
  Cpu& cpu = vcpu.interpreter().cpu();
};

// Expectations on an exception: vector and error code.
inline void expect_fault(const std::optional<x86::Exception>& got, x86::Vector vector,
                         std::optional<uint32_t> error, std::string_view what = "") {
  ASSERT_TRUE(got.has_value()) << what << ": no exception";
  EXPECT_EQ(static_cast<int>(got->vector), static_cast<int>(vector)) << what;
  EXPECT_EQ(got->has_error, error.has_value()) << what;
  EXPECT_EQ(got->has_error ? got->error : 0, error.value_or(0)) << what;
}

}  // namespace ostler::interp
