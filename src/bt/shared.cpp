#include "bt/shared.h"

#include "base/log.h"
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
  return shared;
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
