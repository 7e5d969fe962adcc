#include "mmu/inspect.h"

#include <algorithm>

#include "base/bytes.h"
#include "memory/dma.h"
#include "mmu/page_walk.h"

namespace ostler::mmu {
namespace {

// Page tables in RAM, which stay as they are. A part of the guest that is not RAM reads as all ones.
struct UntouchedTables {
  memory::Dma dma;

  uint64_t read(GuestPhys at, unsigned size) {
    if (size == 4) return dma.read_le<uint32_t>(at).value_or(~uint32_t{0});
    return dma.read_le<uint64_t>(at).value_or(~uint64_t{0});
  }
  static bool replace(GuestPhys, unsigned, uint64_t, uint64_t) { return true; }
};

bool valid(uint64_t linear, PagingMode mode) {
  switch (mode) {
    case PagingMode::k4Level:
    case PagingMode::k5Level: {
      const unsigned unused = mode == PagingMode::k5Level ? 7 : 16;
      return static_cast<uint64_t>(static_cast<int64_t>(linear << unused) >> unused) == linear;
    }
    default:
      return linear >> 32 == 0;
  }
}

// Calls part(linear, offset in the access, length) for each page of an access until one returns false.
template <class Part>
void for_each_page(uint64_t linear, size_t size, Part&& part) {
  for (size_t done = 0; done < size;) {
    const uint64_t at = linear + done;
    const size_t step = std::min<size_t>(size - done, kPageSize - (at & kPageMask));
    if (!part(at, done, step)) return;
    done += step;
  }
}

}  // namespace

std::optional<GuestPhys> Inspector::translate(uint64_t linear) const {
  const PagingContext context = PagingContext::of(state_, phys_bits_, gib_pages_);
  if (!valid(linear, context.mode)) return std::nullopt;
  UntouchedTables tables{memory::Dma(space_)};
  const Walk walk =
      PageWalker(context, tables).walk(linear, {.kind = Access::kRead, .user = false, .smap_lifted = true});
  if (!walk.ok) return std::nullopt;
  return walk.phys;
}

size_t Inspector::read(uint64_t linear, std::span<std::byte> out) const {
  memory::Dma dma(space_);
  size_t read = 0;
  for_each_page(linear, out.size(), [&](uint64_t at, size_t done, size_t step) {
    const auto phys = translate(at);
    if (!phys || !dma.read(*phys, out.subspan(done, step))) return false;
    read = done + step;
    return true;
  });
  return read;
}

bool Inspector::write(uint64_t linear, std::span<const std::byte> in) const {
  memory::Dma dma(space_);
  bool possible = true;
  for_each_page(linear, in.size(), [&](uint64_t at, size_t, size_t step) {
    const auto phys = translate(at);
    possible = phys && dma.accessible(*phys, step, memory::Direction::kToGuest);
    return possible;
  });
  if (!possible) return false;
  for_each_page(linear, in.size(), [&](uint64_t at, size_t done, size_t step) {
    // The write may have been to the page tables themselves.
    const auto phys = translate(at);
    return possible = phys && dma.write(*phys, in.subspan(done, step));
  });
  return possible;
}

}  // namespace ostler::mmu
