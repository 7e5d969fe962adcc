// See guest.h.

#include "differential/vector/guest.h"

#include <cstring>

#include "base/bytes.h"
#include "differential/vector/cases.h"
#include "interp/cpu.h"
#include "interp/op.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

namespace ostler::test {
namespace {

constexpr uint64_t kRamSize = 1 << 20, kTables = 0x1000, kDataPhys = kRealBase;

struct NoDevices final : interp::Environment {
  uint32_t port_read(uint16_t, unsigned) override { return 0; }
  void port_write(uint16_t, unsigned, uint32_t) override {}
  uint64_t tsc() override { return 0; }
  uint8_t cr8() override { return 0; }
  void set_cr8(uint8_t) override {}
  std::optional<uint64_t> read_msr(uint32_t) override { return std::nullopt; }
  bool write_msr(uint32_t, uint64_t) override { return false; }
  uint64_t hypercall(const x86::Hypercall&) override { return 0; }
  std::optional<uint8_t> acknowledge_interrupt() override { return std::nullopt; }
  const x86::VcpuInfo& vcpu_info() const override { return info; }
  void fpu_error() override { ++fpu_errors; }
  x86::VcpuInfo info;
  unsigned fpu_errors = 0;
};

std::shared_ptr<memory::RamBlock> make_ram() {
  auto block = memory::RamBlock::create({.name = "ram", .size = kRamSize});
  if (!block) std::abort();
  return std::move(*block);
}

x86::CpuModel make_model() {
  auto model = x86::CpuModel::parse("max");
  if (!model) std::abort();
  return std::move(*model);
}

}  // namespace

struct VectorGuest::Parts {
  Parts() {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  ~Parts() { mmu.participant().leave_running(); }

  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block = make_ram();
  memory::RamRegion ram{"ram", block};
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  x86::CpuState state;
  mmu::SoftMmu mmu{state, space, code, {}};
  NoDevices environment;
  x86::CpuModel model = make_model();
  interp::Cpu cpu{state, mmu, environment, model};
};

VectorGuest::VectorGuest() : parts_(std::make_unique<Parts>()) {
  Parts& p = *parts_;
  constexpr uint64_t kEntry = 7;  // present, writable, user
  auto entry = [&](uint64_t table, uint64_t index, uint64_t value) {
    store_le<uint64_t>(p.block->host() + table + index * 8, value | kEntry);
  };
  entry(kTables, 0, kTables + 0x1000);
  entry(kTables + 0x1000, kDataBase >> 30, kTables + 0x2000);
  entry(kTables + 0x2000, (kDataBase >> 21) & 511, kTables + 0x3000);
  for (uint64_t i = 0; i < kDataSize / 4096; ++i)
    entry(kTables + 0x3000, ((kDataBase >> 12) & 511) + i, kDataPhys + i * 4096);

  p.state.cr3 = kTables;
  p.mmu.participant().enter_running();
  p.mmu.cr3_written(kTables);
  set_mode(Mode::k64);
}

void VectorGuest::set_mode(Mode mode) {
  x86::CpuState& s = parts_->state;
  s.cr0 = x86::cr0::kNe;
  s.cr4 = x86::cr4::kPae | x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt | x86::cr4::kOsxsave;
  s.xcr0 = 7;
  s.msr.efer = 0;
  constexpr uint32_t kData = x86::Segment::kPresent | 0x10 | 3, kCode = x86::Segment::kPresent | 0x10 | 11;
  if (mode == Mode::kReal) {
    for (auto& segment : s.seg)
      segment = {.base = kRealBase, .limit = 0xffff, .attributes = kData, .selector = 0x1000};
    s.seg[x86::kCs].base = 0;
  } else {
    s.cr0 |= x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp;
    s.msr.efer = x86::efer::kLme | x86::efer::kLma;
    for (auto& segment : s.seg)
      segment = {
          .base = 0, .limit = 0xffffffff, .attributes = kData | x86::Segment::kDefaultBig, .selector = 8};
    s.seg[x86::kCs].attributes =
        kCode | (mode == Mode::k64 ? x86::Segment::kLong : x86::Segment::kDefaultBig);
  }
  parts_->cpu.mode_changed();
}

VectorGuest::~VectorGuest() = default;

void VectorGuest::cpl_changed() {
  parts_->cpu.mode_changed();
}

unsigned VectorGuest::fpu_errors() const {
  return parts_->environment.fpu_errors;
}

x86::CpuState& VectorGuest::state() {
  return parts_->state;
}

std::span<uint8_t> VectorGuest::data() {
  return {reinterpret_cast<uint8_t*>(parts_->block->host()) + kDataPhys, kDataSize};
}

std::optional<x86::Exception> VectorGuest::run(std::span<const uint8_t> code) {
  interp::Op ops[2];
  interp::Op& op = ops[0];
  if (x86::decode(code, parts_->cpu.code_size, op.insn) != x86::DecodeStatus::kOk)
    return x86::Exception{x86::Vector::kUd};
  op.next_offset = op.insn.length;
  interp::BindContext context{};
  context.code_size = parts_->cpu.code_size;
  context.flat = context.code_size == x86::CodeSize::k64;
  op.run = interp::bind_vector(op.insn, context, op.data);
  if (op.run == nullptr) return x86::Exception{x86::Vector::kUd};
  ops[1].run = [](interp::Cpu&, const interp::Op*) -> const interp::Op* { return nullptr; };
  parts_->cpu.current_op = ops;
  try {
    op.run(parts_->cpu, ops);
  } catch (const x86::Exception& exception) {
    return exception;
  }
  return std::nullopt;
}

}  // namespace ostler::test
