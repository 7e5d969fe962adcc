// The interpreter's speed on a mix of integer code: loads, stores, arithmetic, shifts, a multiplication,
// branches that alternate, calls and returns with a stack frame. `items_per_second` is guest instructions.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

extern "C" const uint8_t bench_guest_code[], bench_guest_code_end[];
asm(R"(
.pushsection .rodata
.globl bench_guest_code, bench_guest_code_end
bench_guest_code:
  xor %eax, %eax
1:
  mov $1000, %ecx
2:
  mov (%rbx,%rcx,8), %rdx
  add %rdx, %rax
  lea 5(%rax,%rdx,2), %rsi
  xor %rsi, %rax
  mov %rax, 8(%rbx,%rcx,8)
  shr $3, %rsi
  and $0xff, %esi
  cmp $0x80, %esi
  jb 3f
  add $7, %rax
3:
  test $1, %al
  je 4f
  call 5f
4:
  imul $17, %rsi, %rdi
  movzbl %dil, %edi
  sub %rdi, %rax
  dec %ecx
  jne 2b
  jmp 1b
5:
  push %rbp
  mov %rsp, %rbp
  inc %rax
  pop %rbp
  ret
bench_guest_code_end:
.popsection
)");

namespace ostler::interp {
namespace {

constexpr uint64_t kRam = 4 << 20, kTables = 0x100000, kCode = 0x1000, kData = 0x10000, kStack = 0x80000;

class NoDevices final : public Environment {
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

void integer_mix(benchmark::State& state) {
  auto block = memory::RamBlock::create({.name = "bench", .size = kRam});
  auto model = x86::CpuModel::parse("max");
  if (!block || !model) std::abort();
  memory::AddressSpace space("memory", memory::AddressSpace::kMemorySize);
  memory::RamRegion ram("ram", *block);
  {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  std::byte* host = (*block)->host();
  store_le<uint64_t>(host + kTables, (kTables + 0x1000) | 3);
  store_le<uint64_t>(host + kTables + 0x1000, (kTables + 0x2000) | 3);
  for (uint64_t i = 0; i < kRam >> 21; ++i)
    store_le<uint64_t>(host + kTables + 0x2000 + 8 * i, (i << 21) | 0x83);
  std::memcpy(host + kCode, bench_guest_code, static_cast<size_t>(bench_guest_code_end - bench_guest_code));

  mmu::VcpuGroup group;
  mmu::CodePages code(space, group);
  x86::CpuState cpu;
  cpu.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp | x86::cr0::kNe;
  cpu.cr4 = x86::cr4::kPae;
  cpu.msr.efer = x86::efer::kLme | x86::efer::kLma;
  cpu.cr3 = kTables;
  for (auto& segment : cpu.seg) segment = {.base = 0, .limit = ~0u, .attributes = 0xc093, .selector = 16};
  cpu.seg[x86::kCs].attributes = 0xa09b;
  cpu.rip = kCode;
  cpu.gpr[x86::kRbx] = kData;
  cpu.gpr[x86::kRsp] = kStack;
  mmu::SoftMmu mmu(cpu, space, code, {});
  NoDevices environment;
  Interpreter interpreter(cpu, mmu, environment, *model);
  interpreter.state_changed();
  for (auto unused : state) {
    (void)unused;
    if (interpreter.run(10'000'000) != Exit::kBudget) std::abort();
  }
  state.SetItemsProcessed(static_cast<int64_t>(interpreter.retired()));
}
BENCHMARK(integer_mix)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ostler::interp

BENCHMARK_MAIN();
