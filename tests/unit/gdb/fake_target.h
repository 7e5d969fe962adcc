// A guest of some vCPUs and 64 KiB of memory at address 0, which runs when it is told to and stops when the
// test says so.
#pragma once

#include <cstring>
#include <vector>

#include "gdb/target.h"
#include "x86/state.h"

namespace ostler::gdb {

struct FakeTarget final : Target {
  explicit FakeTarget(size_t cpus = 2) : states(cpus), apic_priority(cpus) {
    for (auto& state : states) state.reset(false);
  }

  size_t cpu_count() const override { return states.size(); }
  bool running() const override { return runs; }
  x86::CpuState& cpu_state(size_t cpu) override { return states.at(cpu); }
  void cpu_state_changed(size_t) override { ++changes; }
  uint8_t cr8(size_t cpu) override { return apic_priority.at(cpu); }
  void set_cr8(size_t cpu, uint8_t value) override { apic_priority.at(cpu) = value; }
  size_t read_memory(size_t, uint64_t linear, std::span<std::byte> out) override {
    if (linear >= memory.size()) return 0;
    const size_t size = std::min<size_t>(out.size(), memory.size() - linear);
    if (size != 0) std::memcpy(out.data(), memory.data() + linear, size);
    return size;
  }
  bool write_memory(size_t, uint64_t linear, std::span<const std::byte> in) override {
    if (linear > memory.size() || in.size() > memory.size() - linear) return false;
    if (!in.empty()) std::memcpy(memory.data() + linear, in.data(), in.size());
    return true;
  }
  void resume(std::span<const Run> which, std::span<const accel::Breakpoint> points) override {
    runs = true;
    resumed.assign(which.begin(), which.end());
    breakpoints.assign(points.begin(), points.end());
  }
  void reset() override { ++resets; }
  void stop() override { runs = false; }
  void release(bool run) override {
    runs = run;
    breakpoints.clear();
  }
  void quit() override { ++quits; }

  std::vector<x86::CpuState> states;
  std::vector<uint8_t> apic_priority;
  std::vector<std::byte> memory = std::vector<std::byte>(64 * 1024);
  std::vector<Run> resumed;
  std::vector<accel::Breakpoint> breakpoints;
  bool runs = false;
  int changes = 0, resets = 0, quits = 0;
};

}  // namespace ostler::gdb
