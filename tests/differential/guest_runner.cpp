#include "guest_runner.h"

#include <cstdio>
#include <cstdlib>

#include "base/bytes.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "support/engine.h"
#include "x86/cpu_model.h"
#include "x86/state.h"

namespace ostler::differential {
namespace {

constexpr uint64_t kRamSize = 8 << 20;
constexpr uint64_t kCodePhys = 0x100000, kDataPhys = 0x200000, kReadOnlyPhys = 0x300000, kTables = 0x400000;
constexpr uint64_t kPresent = 1, kWrite = 2, kUser = 4, kNoExecute = uint64_t{1} << 63;

std::shared_ptr<memory::RamBlock> make_ram() {
  auto block = memory::RamBlock::create({.name = "differential", .size = kRamSize});
  if (!block) std::abort();
  return *block;
}

x86::CpuModel make_model(const std::string& cpu) {
  auto model = x86::CpuModel::parse(cpu);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().message().c_str());
    std::abort();
  }
  return *model;
}

class NoDevices final : public interp::Environment {
 public:
  uint32_t port_read(uint16_t, unsigned) override { return ~0u; }
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

}  // namespace

struct GuestRunner::Machine {
  explicit Machine(const std::string& cpu) : model(make_model(cpu)) {
    {
      memory::Transaction change(space);
      change.add(space.root(), 0, ram);
    }
    std::memset(block->host() + kCodePhys, kFiller, kCodePages * kPageBytes);
    for (size_t i = 0; i < kCodePages; ++i) map(kCode + i * kPageBytes, kCodePhys + i * kPageBytes, 0);
    for (size_t i = 0; i < kDataPages; ++i)
      map(kData + i * kPageBytes, kDataPhys + i * kPageBytes, kWrite | kNoExecute);
    map(kReadOnly, kReadOnlyPhys, kNoExecute);
    using namespace x86;
    state.cr0 = cr0::kPe | cr0::kMp | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kAm | cr0::kPg;
    state.cr4 = cr4::kPae | cr4::kOsfxsr | cr4::kOsxmmexcpt | cr4::kOsxsave | cr4::kFsgsbase;
    state.msr.efer = efer::kSce | efer::kLme | efer::kLma | efer::kNxe;
    state.xcr0 = 7;
    state.cr3 = kTables;
    const uint32_t user_code = 0xb | Segment::kSystemBit | 3 << 5 | Segment::kPresent | Segment::kLong;
    const uint32_t user_data = 3 | Segment::kSystemBit | 3 << 5 | Segment::kPresent | Segment::kDefaultBig;
    for (auto& segment : state.seg)
      segment = {.base = 0, .limit = ~0u, .attributes = user_data, .selector = 0x2b};
    state.seg[kCs].attributes = user_code;
    state.seg[kCs].selector = 0x33;
    state.tr.attributes = Segment::kPresent | 0xb;
    interpreter.stop_on_exceptions(true);
    interpreter.state_changed();
  }

  // Four-level tables; user pages.
  void map(uint64_t linear, uint64_t phys, uint64_t flags) {
    uint64_t table = kTables;
    for (unsigned level = 3; level > 0; --level) {
      std::byte* entry = block->host() + table + ((linear >> (12 + 9 * level)) & 511) * 8;
      auto value = load_le<uint64_t>(entry);
      if (value == 0) {
        value = next_table | kPresent | kWrite | kUser;
        next_table += kPageBytes;
        store_le(entry, value);
      }
      table = value & 0xf'ffff'ffff'f000;
    }
    store_le(block->host() + table + ((linear >> 12) & 511) * 8, phys | kPresent | kUser | flags);
  }

  void write_code(uint64_t address, const uint8_t* bytes, size_t size) {
    const uint64_t phys = address - kCode + kCodePhys;
    std::memcpy(block->host() + phys, bytes, size);
    const uint64_t head = std::min<uint64_t>(size, kPageBytes - phys % kPageBytes);
    space.ram_written(*block, phys, head);
    if (head < size) space.ram_written(*block, phys + head, size - head);
  }

  std::shared_ptr<memory::RamBlock> block = make_ram();
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram{"ram", block};
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  x86::CpuModel model;
  NoDevices environment;
  test::EngineMachine engine{space, code};
  test::EngineVcpu vcpu{engine, environment, model};
  x86::CpuState& state = vcpu.state();
  interp::Interpreter& interpreter = vcpu.interpreter();
  uint64_t next_table = kTables + kPageBytes;
};

GuestRunner::GuestRunner(const std::string& cpu) : machine_(std::make_unique<Machine>(cpu)) {}
GuestRunner::~GuestRunner() = default;

Outcome GuestRunner::run(const TestCase& test, unsigned rounds, int64_t most) {
  machine_->write_code(test.address, test.code.data(), test.code.size());
  Outcome out;
  for (unsigned i = 0; i < rounds; ++i) out = run_once(test, most);
  const std::vector<uint8_t> filler(test.code.size(), kFiller);
  machine_->write_code(test.address, filler.data(), filler.size());
  return out;
}

Outcome GuestRunner::run_once(const TestCase& test, int64_t most) {
  Machine& m = *machine_;
  x86::CpuState& s = m.state;
  std::memcpy(m.block->host() + kDataPhys, test.data.data(), kDataBytes);
  std::memcpy(m.block->host() + kReadOnlyPhys, test.read_only.data(), kPageBytes);

  std::copy(test.state.gpr.begin(), test.state.gpr.end(), s.gpr.begin());
  s.rip = test.address;
  const uint64_t old_rest = s.flags_rest;
  s.set_rflags(test.state.rflags);
  s.seg[x86::kGs].base = test.state.gs_base;
  auto& code = s.seg[x86::kCs];
  const uint32_t size_bit =
      test.code_size == x86::CodeSize::k64 ? x86::Segment::kLong : x86::Segment::kDefaultBig;
  const bool other_size = (code.attributes & size_bit) == 0;
  code.attributes = (code.attributes & ~(x86::Segment::kLong | x86::Segment::kDefaultBig)) | size_bit;
  std::memcpy(&s.fx, test.state.vector.legacy, sizeof s.fx);
  for (unsigned i = 0; i < 16; ++i) test.state.vector.get_ymm(i, s.vec[i]);
  if (((old_rest ^ s.flags_rest) & x86::rflags::kAc) != 0 || other_size) m.interpreter.cpu().mode_changed();

  const interp::Exit exit = m.interpreter.run(most);
  Outcome out;
  out.vector =
      exit == interp::Exit::kException ? static_cast<uint8_t>(m.interpreter.exception().vector) : kTimeout;
  out.error = exit == interp::Exit::kException ? m.interpreter.exception().error : 0;
  // There is no IDT: what INT3 raises instead names its gate.
  if (out.vector == 13 && out.error == (3 << 3 | 2)) {
    out.vector = 3;
    out.error = 0;
  }
  out.cr2 = out.vector == 14 ? m.interpreter.exception().cr2 : 0;
  std::copy_n(s.gpr.begin(), 16, out.state.gpr.begin());
  out.state.rip = s.rip;
  out.state.rflags = s.rflags();
  out.state.gs_base = s.seg[x86::kGs].base;
  std::memcpy(out.state.vector.legacy, &s.fx, sizeof s.fx);
  for (unsigned i = 0; i < 16; ++i) out.state.vector.set_ymm(i, s.vec[i]);
  std::memcpy(out.data.data(), m.block->host() + kDataPhys, kDataBytes);
  return out;
}

}  // namespace ostler::differential
