// What a translation costs: all of libc's code, block after block, read and decoded alone and with the host
// code made. `ninja bench_translate && build/bin/bench_translate`; under `valgrind --tool=callgrind` with
// --benchmark_min_time=0.01 it tells where the time goes.
#include <benchmark/benchmark.h>
#include <elf.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "bt/runner.h"
#include "memory/address_space.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

namespace ostler::bt {
namespace {

constexpr const char* kLibrary = "/usr/lib/x86_64-linux-gnu/libc.so.6";
constexpr uint64_t kRam = 8 << 20;

template <class T>
T value_of(Result<T> result) {
  if (result) return *std::move(result);
  std::fprintf(stderr, "%s\n", result.error().message().c_str());
  std::exit(1);
}

struct Library {
  std::vector<char> bytes;
  uint64_t begin = 0, end = 0;  // of its code

  Library() {
    std::ifstream file(kLibrary, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    Elf64_Ehdr header{};
    if (bytes.size() < sizeof header || bytes.size() > kRam) {
      std::fprintf(stderr, "%s: no library of at most 8 MiB; install libc6\n", kLibrary);
      std::exit(1);
    }
    std::memcpy(&header, bytes.data(), sizeof header);
    for (unsigned i = 0; i < header.e_phnum; ++i) {
      Elf64_Phdr segment{};
      std::memcpy(&segment, bytes.data() + header.e_phoff + i * sizeof segment, sizeof segment);
      if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
      begin = segment.p_offset;
      end = segment.p_offset + segment.p_filesz;
    }
  }
};

struct Setup {
  explicit Setup(const Library& library)
      : block(value_of(memory::RamBlock::create({.name = "bench", .size = kRam}))), ram("ram", block) {
    {
      memory::Transaction change(space);
      change.add(space.root(), 0, ram);
    }
    std::memcpy(block->host(), library.bytes.data(), library.bytes.size());
    shared = value_of(Shared::create(code, options));
    window = value_of(Window::create());
    x86::CpuState& s = window->hot().cpu;
    s.cr0 = x86::cr0::kPe;  // linear addresses are physical ones
    mmu.emplace(s, space, code, mmu::SoftMmu::Limits{}, window.get());
  }

  Options options;
  std::shared_ptr<memory::RamBlock> block;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  memory::RamRegion ram;
  mmu::VcpuGroup group;
  mmu::CodePages code{space, group};
  std::unique_ptr<Shared> shared;
  std::unique_ptr<Window> window;
  x86::CpuModel model = value_of(x86::CpuModel::parse("max"));
  std::optional<mmu::SoftMmu> mmu;
  std::unique_ptr<GuestCode> guest = std::make_unique<GuestCode>();
};

// Calls f for every block of the library, one behind the other.
template <class F>
uint64_t each_block(Setup& setup, const Library& library, F&& f) {
  uint64_t instructions = 0;
  for (uint64_t at = library.begin; at < library.end;) {
    read_guest_code(*setup.mmu, setup.model, at, at, 0, setup.options, *setup.guest);
    f(at);
    instructions += setup.guest->count;
    at += setup.guest->bytes;
  }
  return instructions;
}

void read(benchmark::State& state) {
  const Library library;
  Setup setup(library);
  uint64_t instructions = 0;
  for (auto _ : state) instructions += each_block(setup, library, [](uint64_t) {});
  state.SetItemsProcessed(static_cast<int64_t>(instructions));
}

void translate(benchmark::State& state) {
  const Library library;
  Setup setup(library);
  CodeCache& cache = *setup.shared->cache;
  Translator translator(cache, setup.shared->routines, setup.options);
  uint64_t instructions = 0;
  for (auto _ : state) {
    Arena arena;
    instructions += each_block(setup, library, [&](uint64_t at) {
      const uint32_t page = cache.own_page(at, at);
      const uint32_t second =
          setup.guest->straddles ? cache.own_page((at | kPageMask) + 1, setup.guest->second_phys) : kNone;
      if (!arena.has_room(setup.guest->count)) {
        if (!cache.take_arena(arena)) std::exit(1);
        cache.populate(arena);
      }
      cache.add(arena, translator.translate(*setup.guest, page, second, arena));
    });
    cache.flush();
  }
  const CodeCache::Statistics& statistics = cache.statistics();
  const auto each = [&](uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(statistics.instructions);
  };
  state.counters["host_bytes"] = each(statistics.host_bytes);
  state.counters["in_block"] = 1 / each(statistics.blocks);
  state.SetItemsProcessed(static_cast<int64_t>(instructions));
}

BENCHMARK(read)->Unit(benchmark::kMillisecond);
BENCHMARK(translate)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ostler::bt

BENCHMARK_MAIN();
