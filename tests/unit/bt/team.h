// Several vCPUs on the translator, each on a thread of its own: 4 MiB of RAM with code, data and stacks,
// mapped one to one for supervisor and user code but for page 0, which is not there, and one code cache.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "bt/runner.h"
#include "interp/environment.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

namespace ostler::bt {

inline constexpr uint64_t kRam = 4 << 20, kText = 0x10000, kStackTop = 0x20800, kTables = 0x300000;

class World final : public interp::Environment {
 public:
  uint32_t port_read(uint16_t, unsigned) override { return 0; }
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

template <class T>
T value_of(Result<T> result) {
  EXPECT_TRUE(result.has_value());
  return *std::move(result);
}

// What the vCPUs share.
struct Team {
  explicit Team(const Options& options, unsigned vcpus = 1)
      : block(value_of(memory::RamBlock::create({.name = "test", .size = kRam}))), ram("ram", block) {
    memory::Transaction(space).add(space.root(), 0, ram);
    shared = value_of(Shared::create(code, options, vcpus));
  }
  std::byte* at(uint64_t phys) { return block->host() + phys; }
  void put(uint64_t phys, const std::vector<uint8_t>& bytes) {
    std::memcpy(at(phys), bytes.data(), bytes.size());
    space.ram_written(*block, phys, bytes.size());
  }
  void map(uint64_t flags = 7) {
    const auto table = [this](unsigned n) { return at(kTables + n * kPageSize); };
    store_le<uint64_t>(table(0), (kTables + 1 * kPageSize) | 7);
    store_le<uint64_t>(table(1), (kTables + 2 * kPageSize) | 7);
    for (unsigned i = 0; i < 2; ++i)
      store_le<uint64_t>(table(2) + 8 * i, (kTables + (3 + i) * kPageSize) | 7);
    for (uint64_t page = 1; page < 1024; ++page)
      store_le<uint64_t>(table(3) + 8 * page,
                         (page * kPageSize) | (page * kPageSize < kTables ? flags : flags & 3));
  }

  std::shared_ptr<memory::RamBlock> block;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram;
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  std::unique_ptr<Shared> shared;
};

// One of them. `translated`: otherwise it interprets.
struct Member {
  Member(Team& team, bool translated) : window(value_of(Window::create())) {
    mmu.emplace(state(), team.space, team.code, mmu::SoftMmu::Limits{}, window.get());
    interpreter.emplace(state(), *mmu, world, model, size_t{1} << 20, &window->hot().pending);
    runner = value_of(Runner::create(*team.shared, *window, *interpreter));
    if (translated) interpreter->set_native(runner.get());
  }
  x86::CpuState& state() { return window->hot().cpu; }
  // 64-bit code with paging.
  void start(unsigned cpl, uint64_t rip = kText, uint64_t stack = kStackTop) {
    using namespace x86;
    CpuState& s = state();
    s.cr0 = cr0::kPe | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kPg;
    s.cr4 = cr4::kPae | cr4::kOsfxsr;
    s.msr.efer = efer::kLme | efer::kLma | efer::kNxe;
    s.cr3 = kTables;
    for (auto& segment : s.seg)
      segment = {.base = 0,
                 .limit = ~0u,
                 .attributes = 0xc093u | cpl << 5,
                 .selector = static_cast<uint16_t>(16 | cpl)};
    s.seg[kCs] = {.base = 0,
                  .limit = ~0u,
                  .attributes = 0xa09bu | cpl << 5,
                  .selector = static_cast<uint16_t>(8 | cpl)};
    s.gpr[kRsp] = stack;
    s.rip = rip;
    s.activity = Activity::kRunning;
    interpreter->state_changed();
  }
  interp::Exit run() {
    state().activity = x86::Activity::kRunning;
    return interpreter->run(int64_t{1} << 40);
  }

  std::unique_ptr<Window> window;
  World world;
  x86::CpuModel model = value_of(x86::CpuModel::parse("max"));
  std::optional<mmu::SoftMmu> mmu;
  std::optional<interp::Interpreter> interpreter;
  std::unique_ptr<Runner> runner;
};

}  // namespace ostler::bt
