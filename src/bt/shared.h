// What the vCPUs of a machine share of the translator.
#pragma once

#include <x86intrin.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "bt/code_cache.h"
#include "bt/guest_code.h"
#include "bt/options.h"
#include "bt/perf_map.h"
#include "bt/routines.h"

namespace ostler::bt {

class Shared {
 public:
  // Outlived by `pages`, outlives the runners, of which there are `vcpus`.
  static Result<std::unique_ptr<Shared>> create(mmu::CodePages& pages, const Options& options,
                                                unsigned vcpus = 1);
  ~Shared();

  const Options options;
  mmu::CodePages& pages;
  std::unique_ptr<CodeCache> cache;
  Routines routines;

  // The cache is full. Every vCPU is out of translated code.
  void make_room();
  // Tells logs and perf of a block. With the cache's mutex held.
  void tell(const GuestCode& code, const Draft& draft);

  // Memory was replaced while every vCPU is paused: a reset, a restored state.
  void memory_replaced() { cache->flush(); }

 private:
  Shared(mmu::CodePages& code_pages, const Options& o) : options(o), pages(code_pages) {}

  void tell_routines();
  double tick_nanoseconds() const;

  std::unique_ptr<PerfMap> perf_map_;
  // When it was made, by two clocks: what a tick of the TSC is.
  const uint64_t made_tick_ = __rdtsc();
  const std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
};

}  // namespace ostler::bt
