#include "bt/shared.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "bt/listing.h"
#include "bt/runner.h"

namespace ostler::bt {

Result<std::unique_ptr<Shared>> Shared::create(mmu::CodePages& pages, const Options& options) {
  std::unique_ptr<Shared> shared(new Shared(pages, options));
  auto cache = CodeCache::create(pages, options.cache_bytes);
  if (!cache) return std::move(cache).error();
  shared->cache = *std::move(cache);
  auto routines = make_routines(*shared->cache, &Runner::miss);
  if (!routines) return std::move(routines).error();
  shared->routines = *routines;
  shared->translator = std::make_unique<Translator>(*shared->cache, shared->routines, options);
  if (options.perf_map) {
    auto map = PerfMap::create(PerfMap::path_of_this_process());
    if (!map) return std::move(map).error();
    shared->perf_map_ = *std::move(map);
    shared->tell_routines();
  }
  return shared;
}

void Shared::tell_routines() {
  perf_map_->add(cache->executable(0), cache->hot(), "ostler_routines");
}

void Shared::flush() {
  cache->make_room();
  if (perf_map_ == nullptr) return;
  const std::lock_guard lock(cache->mutex());
  perf_map_->clear();
  tell_routines();
}

void Shared::tell(const GuestCode& code, const Block& block, Offset cold) {
  if (log::enabled(log::Subject::kInAsm)) log::write(guest_listing(code));
  if (log::enabled(log::Subject::kOutAsm)) log::write(host_listing(*cache, block));
  if (perf_map_ == nullptr) return;
  const uint64_t rip = code.base + code.rip;
  perf_map_->add(cache->executable(block.start), cache->end_of(block) - block.start,
                 fmt::format("guest_{:#x}", rip));
  perf_map_->add(cache->executable(cold), cache->cold() - cold, fmt::format("guest_{:#x}_cold", rip));
}

Shared::~Shared() {
  if (cache == nullptr) return;
  const CodeCache::Statistics& s = cache->statistics();
  if (s.instructions != 0)
    log::trace(log::Subject::kStats,
               "translated {} instructions in {} ms ({} blocks, {} bytes of guest code, {} of host code); {} "
               "links, {} "
               "blocks overwritten, {} flushes",
               s.instructions, s.nanoseconds / 1'000'000, s.blocks, s.guest_bytes, s.host_bytes, s.links,
               s.killed, s.flushes);
}

}  // namespace ostler::bt
