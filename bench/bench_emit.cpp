// What writing a checked load costs: asmjit's assembler beside src/bt/assembler.h. Items are host
// instructions.
#include <asmjit/x86.h>
#include <benchmark/benchmark.h>

#include <array>

#include "bt/assembler.h"

namespace {

constexpr size_t kTag = 0x1000, kHost = 0x2000;
constexpr int kInstructions = 8;

void asmjit_load(benchmark::State& state) {
  using namespace asmjit::x86;
  asmjit::CodeHolder code;
  code.init(asmjit::Environment::host());
  Assembler a(&code);
  const auto gs_indexed = [](size_t at) {
    Mem mem = ptr(static_cast<uint64_t>(at), r15, 3, 8);
    mem.setSegment(gs);
    return mem;
  };
  for (auto _ : state) {
    a.setOffset(0);
    for (int i = 0; i < 64; ++i) {
      a.lea(r14, ptr(rbx, rcx, 3, 16));
      a.rorx(r15, r14, 12);
      a.and_(r15d, 4095);
      a.sub(r14, gs_indexed(kTag));
      a.cmp(r14, 4088);
      a.ja(uint64_t{0});
      a.mov(r15, gs_indexed(kHost));
      a.mov(rax, ptr(r14, r15));
    }
    benchmark::DoNotOptimize(a.bufferPtr());
  }
  state.SetItemsProcessed(state.iterations() * 64 * kInstructions);
}
BENCHMARK(asmjit_load);

void ours_load(benchmark::State& state) {
  using namespace ostler::bt;
  std::array<uint8_t, 64 * 1024> buffer;
  for (auto _ : state) {
    Assembler a(buffer.data(), 0);
    for (int i = 0; i < 64; ++i) {
      a.lea(kS0, {.base = 3, .index = 1, .scale = 3, .disp = 16});
      a.rorx(kS1, kS0, 12);
      a.and32(kS1, 4095);
      a.sub_indexed(kS0, kS1, kTag);
      a.cmp_imm(kS0, 4088);
      a.jcc(kCcA);
      a.load_indexed(kS1, kS1, kHost);
      a.load_mem(kRax, {.base = kS0, .index = kS1});
    }
    benchmark::DoNotOptimize(a.at());
  }
  state.SetItemsProcessed(state.iterations() * 64 * kInstructions);
}
BENCHMARK(ours_load);

}  // namespace

BENCHMARK_MAIN();
