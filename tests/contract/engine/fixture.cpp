#include "fixture.h"

namespace ostler::test {
namespace {

std::shared_ptr<memory::RamBlock> make_block() {
  auto block = memory::RamBlock::create({.name = "test", .size = kRam});
  EXPECT_TRUE(block.has_value());
  return *block;
}
x86::CpuModel make_model() {
  auto model = x86::CpuModel::parse("max");
  EXPECT_TRUE(model.has_value());
  return *model;
}
constexpr uint64_t kTableFlags = pte::kP | pte::kW | pte::kU;
constexpr uint64_t kAddress = 0x000f'ffff'ffff'f000;

}  // namespace

Machine::Machine() : block(make_block()), ram("ram", block) {
  {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  poke<uint64_t>(kGdt + kKernelCode, 0x00209b00'00000000);
  poke<uint64_t>(kGdt + kKernelData, 0x00cf9300'0000ffff);
  poke<uint64_t>(kGdt + kUserData, 0x00cff300'0000ffff);
  poke<uint64_t>(kGdt + kUserCode, 0x0020fb00'00000000);
}

Space::Space(Machine& machine) : machine_(machine), root_(machine.new_page()) {
  for (uint64_t at = 0; at < kIdentity; at += 4096) map(at, at, pte::kP | pte::kW);
}

uint64_t Space::entry(uint64_t linear, unsigned level) {
  uint64_t table = root_;
  for (unsigned at = 4; at > level; --at) {
    const uint64_t entry = table + (linear >> (3 + 9 * at) & 511) * 8;
    if (machine_.peek<uint64_t>(entry) == 0)
      machine_.poke<uint64_t>(entry, machine_.new_page() | kTableFlags);
    table = machine_.peek<uint64_t>(entry) & kAddress;
  }
  return table + (linear >> (3 + 9 * level) & 511) * 8;
}

uint64_t Space::window(uint64_t linear, unsigned level) {
  const uint64_t phys = entry(linear, level);
  const uint64_t at = next_window_;
  next_window_ += 4096;
  map(at, phys & ~uint64_t{4095}, pte::kP | pte::kW);
  return at + (phys & 4095);
}

Vcpu::Vcpu(Machine& the_machine, Space& space)
    : machine(the_machine), model(make_model()), parts(machine.engine, world, model) {
  using namespace x86;
  s.cr0 = cr0::kPe | cr0::kEt | cr0::kNe | cr0::kWp | cr0::kPg;
  s.cr4 = cr4::kPae | cr4::kPge | cr4::kOsfxsr | cr4::kOsxmmexcpt;
  s.msr.efer = efer::kSce | efer::kLme | efer::kLma | efer::kNxe;
  s.cr3 = space.root();
  s.gdtr = {kGdt, 0x2f};
  for (auto& segment : s.seg)
    segment = {.base = 0, .limit = ~0u, .attributes = 0xc093, .selector = kKernelData};
  s.seg[kCs] = {.base = 0, .limit = ~0u, .attributes = 0xa09b, .selector = kKernelCode};
  s.gpr[kRsp] = kStackTop;
  interpreter.stop_on_exceptions(true);
  interpreter.state_changed();
}

interp::Exit Vcpu::go(uint64_t rip, int64_t most) {
  s.rip = rip;
  s.activity = x86::Activity::kRunning;
  return interpreter.run(most);
}

void Vcpu::set_cpl(unsigned cpl) {
  s.seg[x86::kSs].attributes = cpl == 3 ? 0xc0f3 : 0xc093;
  s.seg[x86::kSs].selector = static_cast<uint16_t>(cpl == 3 ? kUserData | 3 : kKernelData);
  s.seg[x86::kCs].attributes = cpl == 3 ? 0xa0fb : 0xa09b;
  s.seg[x86::kCs].selector = static_cast<uint16_t>(cpl == 3 ? kUserCode | 3 : kKernelCode);
  interpreter.cpu().mode_changed();
}

void expect_page_fault(const Vcpu& cpu, uint64_t address, uint32_t error) {
  EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kPf));
  EXPECT_EQ(cpu.exception().cr2, address);
  EXPECT_EQ(cpu.exception().error, error);
}

}  // namespace ostler::test
