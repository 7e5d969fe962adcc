// A small machine for the tests of src/mmu: 16 MiB of RAM at 0, ROM at 0xf0000000, a device at 0xe0000000,
// and one or more vCPUs. Page tables are built in RAM by hand.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "bus/io_handler.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/state.h"

namespace ostler::mmu {

inline constexpr uint64_t kRamSize = 16 << 20;
inline constexpr uint64_t kDevice = 0xe0000000;
inline constexpr uint64_t kRom = 0xf0000000;

class FakeDevice : public bus::IoHandler {
 public:
  std::string_view name() const override { return "fake"; }
  uint64_t io_read(uint64_t offset, unsigned size) override {
    reads.push_back({offset, size});
    return 0x8877665544332211u & size_mask(size);
  }
  void io_write(uint64_t offset, unsigned size, uint64_t value) override {
    writes.push_back({offset, size, value});
  }
  struct Read {
    uint64_t offset;
    unsigned size;
    friend bool operator==(const Read&, const Read&) = default;
  };
  struct Write {
    uint64_t offset;
    unsigned size;
    uint64_t value;
    friend bool operator==(const Write&, const Write&) = default;
  };
  std::vector<Read> reads;
  std::vector<Write> writes;
};

inline std::shared_ptr<memory::RamBlock> ram_of(uint64_t size) {
  auto block = memory::RamBlock::create({.name = "test", .size = size});
  EXPECT_TRUE(block.has_value());
  return std::move(*block);
}

struct Machine {
  Machine() {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
    change.add(space.root(), kDevice, mmio);
    change.add(space.root(), kRom, rom);
  }
  template <class T>
  T peek(uint64_t phys) const {
    return load_le<T>(block->host() + phys);
  }
  template <class T>
  void poke(uint64_t phys, T value) {
    store_le<T>(block->host() + phys, value);
  }

  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block = ram_of(kRamSize), rom_block = ram_of(0x10000);
  memory::RamRegion ram{"ram", block};
  memory::RomRegion rom{"rom", rom_block};
  FakeDevice device;
  memory::IoRegion mmio{"mmio", device, 0x10000};
  VcpuGroup group;
  CodePages code{space, group};
};

struct Vcpu {
  explicit Vcpu(Machine& machine) : mmu(state, machine.space, machine.code, {}) {
    mmu.participant().enter_running();
  }
  ~Vcpu() {
    if (mmu.participant().running()) mmu.participant().leave_running();
  }
  // 64-bit mode with 4-level paging, supervisor, with WP and NX.
  void long_mode(uint64_t cr3) {
    state.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp;
    state.cr4 |= x86::cr4::kPae | x86::cr4::kPge;
    state.msr.efer = x86::efer::kLme | x86::efer::kLma | x86::efer::kNxe;
    state.seg[x86::kCs].attributes = x86::Segment::kLong | x86::Segment::kPresent;
    state.cr3 = cr3;
    mmu.cr3_written(cr3);
    set_cpl(0);
  }
  void set_cpl(unsigned cpl) {
    state.seg[x86::kSs].attributes = cpl << 5;
    mmu.mode_changed();
  }
  void set_ac(bool ac) {
    state.flags_rest = (state.flags_rest & ~x86::rflags::kAc) | (ac ? x86::rflags::kAc : 0);
    mmu.mode_changed();
  }
  void set_cr4(uint64_t set, uint64_t clear = 0) {
    state.cr4 = (state.cr4 | set) & ~clear;
    mmu.mode_changed();
  }
  void set_cr3(uint64_t cr3) {
    state.cr3 = cr3;
    mmu.cr3_written(cr3);
  }
  // The page fault that `access` raises; none when it succeeds.
  template <class F>
  std::optional<x86::Exception> fault(F&& access) {
    try {
      access();
    } catch (const x86::Exception& exception) {
      return exception;
    }
    return std::nullopt;
  }

  x86::CpuState state;
  SoftMmu mmu;
};

// Builds 4-level tables from physical 1 MiB on. All table entries allow everything.
class Tables {
 public:
  explicit Tables(Machine& machine, uint64_t at = 0x100000)
      : machine_(machine), root_(at), next_(at + kPageSize) {}
  uint64_t cr3() const { return root_; }

  // The address of the entry for `linear` on `level` (1: page table), making the tables above it.
  uint64_t entry(uint64_t linear, unsigned level = 1) {
    uint64_t table = root_;
    for (unsigned at = 4;; --at) {
      const uint64_t here = table + ((linear >> (12 + 9 * (at - 1))) & 511) * 8;
      if (at == level) return here;
      if ((machine_.peek<uint64_t>(here) & 1) == 0) {
        machine_.poke<uint64_t>(here, next_ | 7);
        next_ += kPageSize;
      }
      table = machine_.peek<uint64_t>(here) & 0x000ffffffffff000;
    }
  }
  void map(uint64_t linear, uint64_t value, unsigned level = 1) {
    machine_.poke<uint64_t>(entry(linear, level), value);
  }

 private:
  Machine& machine_;
  uint64_t root_;
  uint64_t next_;
};

}  // namespace ostler::mmu
