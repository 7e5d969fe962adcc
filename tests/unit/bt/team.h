// Several vCPUs on the translator, each on a thread of its own: the memory and page tables of a rig (rig.h),
// and one code cache.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "rig.h"

namespace ostler::bt {

struct Team {
  explicit Team(const Options& options, unsigned vcpus)
      : block(value_of(memory::RamBlock::create({.name = "test", .size = kRam}))), ram("ram", block) {
    memory::Transaction(space).add(space.root(), 0, ram);
    shared = value_of(Shared::create(code, options, vcpus));
    const auto entry = [this](uint64_t at, uint64_t value) { store_le<uint64_t>(block->host() + at, value); };
    for (unsigned table = 0; table < 2; ++table)
      entry(kTables + table * kPageSize, (kTables + (table + 1) * kPageSize) | 7);
    for (unsigned table = 0; table < 2; ++table)
      entry(kTables + 2 * kPageSize + 8 * table, (kTables + (3 + table) * kPageSize) | 7);
    for (uint64_t page = 1; page < 1024; ++page)
      entry(kTables + 3 * kPageSize + 8 * page, (page * kPageSize) | 7);
  }
  std::byte* at(uint64_t phys) { return block->host() + phys; }
  void put(uint64_t phys, const std::vector<uint8_t>& bytes) {
    std::memcpy(at(phys), bytes.data(), bytes.size());
    space.ram_written(*block, phys, bytes.size());
  }

  std::shared_ptr<memory::RamBlock> block;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram;
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  std::unique_ptr<Shared> shared;
};

struct Member {
  Member(Team& team, bool translated) : window(value_of(Window::create())) {
    mmu.emplace(state(), team.space, team.code, mmu::SoftMmu::Limits{}, window.get());
    interpreter.emplace(state(), *mmu, world, model, size_t{1} << 20, &window->hot().pending);
    runner = value_of(Runner::create(*team.shared, *window, *interpreter));
    if (translated) interpreter->set_native(runner.get());
    interpreter->stop_on_exceptions(true);
  }
  x86::CpuState& state() { return window->hot().cpu; }
  // 64-bit code with paging, as a supervisor.
  void start(uint64_t rip, uint64_t stack) {
    using namespace x86;
    CpuState& s = state();
    s.cr0 = cr0::kPe | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kPg;
    s.cr4 = cr4::kPae | cr4::kOsfxsr;
    s.msr.efer = efer::kLme | efer::kLma | efer::kNxe;
    s.cr3 = kTables;
    for (auto& segment : s.seg) segment = {.base = 0, .limit = ~0u, .attributes = 0xc093, .selector = 16};
    s.seg[kCs] = {.base = 0, .limit = ~0u, .attributes = 0xa09b, .selector = 8};
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
