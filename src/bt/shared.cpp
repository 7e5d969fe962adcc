#include "bt/shared.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "bt/listing.h"
#include "bt/runner.h"

namespace ostler::bt {

Result<std::unique_ptr<Shared>> Shared::create(mmu::CodePages& pages, const Options& options,
                                               unsigned vcpus) {
  std::unique_ptr<Shared> shared(new Shared(pages, options));
  auto cache = CodeCache::create(pages, options.cache_bytes, vcpus);
  if (!cache) return std::move(cache).error();
  shared->cache = *std::move(cache);
  auto routines = make_routines(*shared->cache, &Runner::miss);
  if (!routines) return std::move(routines).error();
  shared->routines = *routines;
  if (options.perf_map) {
    auto map = PerfMap::create(PerfMap::path_of_this_process());
    if (!map) return std::move(map).error();
    shared->perf_map_ = *std::move(map);
    shared->tell_routines();
  }
  return shared;
}

void Shared::tell_routines() {
  perf_map_->add(cache->executable(0), cache->arenas_start(), "ostler_routines");
}

void Shared::make_room() {
  if (perf_map_ == nullptr) return cache->make_room();
  // Names cannot be taken away one by one.
  cache->flush();
  const std::lock_guard lock(cache->mutex());
  perf_map_->clear();
  tell_routines();
}

void Shared::tell(const GuestCode& code, const Draft& draft) {
  if (log::enabled(log::Subject::kInAsm)) log::write(guest_listing(code));
  if (log::enabled(log::Subject::kOutAsm)) log::write(host_listing(*cache, draft.block, draft.hot.end));
  if (perf_map_ == nullptr) return;
  const uint64_t rip = code.base + code.rip;
  perf_map_->add(cache->executable(draft.hot.next), draft.hot.left(), fmt::format("guest_{:#x}", rip));
  perf_map_->add(cache->executable(draft.cold.next), draft.cold.left(), fmt::format("guest_{:#x}_cold", rip));
}

double Shared::tick_nanoseconds() const {
  const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - made_;
  return passed.count() / static_cast<double>(std::max<uint64_t>(__rdtsc() - made_tick_, 1));
}

Shared::~Shared() {
  if (cache == nullptr) return;
  const CodeCache::Statistics& s = cache->statistics();
  if (s.instructions != 0)
    log::trace(log::Subject::kStats,
               "translated {} instructions in {} ms ({} blocks, {} bytes of guest code, {} of host code); {} "
               "links, {} "
               "blocks overwritten, {} evictions, {} flushes",
               s.instructions,
               static_cast<uint64_t>(static_cast<double>(s.ticks.load()) * tick_nanoseconds() / 1e6),
               s.blocks, s.guest_bytes, s.host_bytes, s.links, s.killed, s.evictions, s.flushes);
}

}  // namespace ostler::bt
