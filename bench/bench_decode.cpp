// How long the decoder takes per instruction of real code: a linear sweep over the largest executable segment
// of this process (a shared library's text), and over single instructions that are typical.
#include <benchmark/benchmark.h>
#include <link.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "x86/instruction.h"

namespace {

using ostler::x86::CodeSize;
using ostler::x86::DecodeStatus;
using ostler::x86::Instruction;

std::span<const uint8_t> largest_text() {
  std::span<const uint8_t> largest;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& best = *static_cast<std::span<const uint8_t>*>(data);
        for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0 || header.p_filesz <= best.size())
            continue;
          best = {reinterpret_cast<const uint8_t*>(info->dlpi_addr + header.p_vaddr), header.p_filesz};
        }
        return 0;
      },
      &largest);
  return largest;
}

// Instructions of the text, one after the other; bytes that are none are skipped and not counted.
void decode_text(benchmark::State& state) {
  const std::span<const uint8_t> text = largest_text();
  Instruction insn;
  size_t position = 0, count = 0;
  for (auto _ : state) {
    if (position + 15 > text.size()) position = 0;
    while (ostler::x86::decode(text.subspan(position, std::min<size_t>(16, text.size() - position)),
                               CodeSize::k64, insn) != DecodeStatus::kOk)
      ++position;
    benchmark::DoNotOptimize(insn);
    position += insn.length;
    ++count;
  }
  state.SetItemsProcessed(static_cast<int64_t>(count));
}
BENCHMARK(decode_text);

void decode_one(benchmark::State& state, std::vector<uint8_t> code) {
  code.resize(16, 0x90);
  Instruction insn;
  for (auto _ : state) {
    benchmark::DoNotOptimize(code.data());
    benchmark::DoNotOptimize(ostler::x86::decode(code, CodeSize::k64, insn));
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
}
BENCHMARK_CAPTURE(decode_one, mov_load, std::vector<uint8_t>{0x48, 0x8b, 0x44, 0x24, 0x18});
BENCHMARK_CAPTURE(decode_one, add_immediate, std::vector<uint8_t>{0x48, 0x83, 0xc0, 0x10});
BENCHMARK_CAPTURE(decode_one, jcc, std::vector<uint8_t>{0x74, 0x10});
BENCHMARK_CAPTURE(decode_one, vaddsd, std::vector<uint8_t>{0xc5, 0xfb, 0x58, 0xc1});

}  // namespace

BENCHMARK_MAIN();
