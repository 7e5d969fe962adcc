// The page walk over tables and control bits that the input chooses: it ends, stays within the physical
// address width, and touches nothing but accessed and dirty bits of entries that are present.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "mmu/page_walk.h"

namespace {

using namespace ostler;
using namespace ostler::mmu;

struct Memory {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(4096);
  uint64_t read(GuestPhys at, unsigned size) {
    if (at.value % size != 0) abort();
    uint64_t value = 0;
    memcpy(&value, &bytes[at.value % bytes.size()], size);
    return value;
  }
  bool replace(GuestPhys at, unsigned size, uint64_t expected, uint64_t desired) {
    constexpr uint64_t kMayChange = pte::kAccessed | pte::kDirty;
    if (read(at, size) != expected || (expected & ~desired) != 0 ||
        ((expected ^ desired) & ~kMayChange) != 0 || expected == desired || (expected & pte::kPresent) == 0)
      abort();
    memcpy(&bytes[at.value % bytes.size()], &desired, size);
    return true;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kHeader = 20;
  if (size < kHeader) return 0;
  PagingContext c;
  c.mode = static_cast<PagingMode>(data[0] % 5);
  c.wp = data[1] & 1, c.pse = data[1] & 2, c.pge = data[1] & 4, c.smep = data[1] & 8, c.smap = data[1] & 16;
  c.nxe = data[1] & 32, c.gib_pages = data[1] & 64;
  c.phys_bits = 32 + data[2] % 21;
  const WalkAccess access{.kind = static_cast<Access>(data[3] % 3),
                          .user = (data[3] & 64) != 0,
                          .smap_lifted = (data[3] & 128) != 0};
  uint64_t linear;
  memcpy(&c.cr3, data + 4, 8);
  memcpy(&linear, data + 12, 8);
  Memory memory;
  for (size_t i = 0; i < memory.bytes.size() && size > kHeader; ++i)
    memory.bytes[i] = data[kHeader + i % (size - kHeader)];
  for (unsigned i = 0; i < 4; ++i) c.pdpte[i] = memory.read({i * 8}, 8);

  const Walk walk = PageWalker(c, memory).walk(linear, access);
  if (walk.ok) {
    if (walk.phys.value >> c.phys_bits != 0 || walk.error != 0) abort();
    if ((walk.phys.value ^ linear) & kPageMask) abort();
    // Allowed once, allowed again, and with the same result.
    const Walk again = PageWalker(c, memory).walk(linear, access);
    if (!again.ok || again.phys != walk.phys) abort();
  } else if ((walk.error & ~uint32_t{0x1f}) != 0) {
    abort();
  }
  return 0;
}
