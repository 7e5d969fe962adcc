#include "mmu/tlb.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

namespace ostler::mmu {
namespace {

// Host pages are only named. Many linear pages lie at few of them, and few slots are used, so that they take
// each other's place all the time.
TEST(TlbTest, WriteAccessToAPageIsTakenAwayWhereverItIs) {
  constexpr unsigned kSteps = 50000;
  const auto tlb = std::make_unique<Tlb>();
  std::map<unsigned, std::pair<uint64_t, std::byte*>> writable;  // by slot: linear page, host page
  std::mt19937 random(1);
  const auto pick = [&](unsigned count) { return static_cast<unsigned>(random() % count); };
  const auto host_page = [&] {
    // Three that share a bucket, and their neighbours.
    return reinterpret_cast<std::byte*>(uintptr_t{0x7f0000000000} + (pick(3) << 26) + (pick(2) << 12));
  };
  for (unsigned step = 0; step < kSteps; ++step) {
    const unsigned slot = 5 + pick(4);
    const uint64_t linear = (uint64_t{pick(2)} * Tlb::kEntries + slot) << 12;
    switch (pick(4)) {
      case 0:
        tlb->clear_page(linear);
        if (writable.contains(slot) && writable[slot].first == linear) writable.erase(slot);
        break;
      case 1: {
        std::byte* gone = host_page();
        tlb->clear_write_tags_of(gone);
        std::erase_if(writable, [&](const auto& one) { return one.second.second == gone; });
        break;
      }
      default: {
        const bool write = pick(2) != 0;
        std::byte* host = host_page();
        const bool same = writable.contains(slot) && writable[slot] == std::pair(linear, host);
        tlb->fill({.linear = linear,
                   .phys = GuestPhys{0x1000},
                   .host = host,
                   .read = true,
                   .write = write,
                   .fetch = false,
                   .global = false,
                   .user_page = true,
                   .page_size = 4096});
        if (write)
          writable[slot] = {linear, host};
        else if (!same)
          writable.erase(slot);
      }
    }
    for (unsigned s = 5; s < 9; ++s)
      for (unsigned half = 0; half < 2; ++half) {
        const uint64_t page = (uint64_t{half} * Tlb::kEntries + s) << 12;
        const auto known = writable.find(s);
        std::byte* want =
            known != writable.end() && known->second.first == page ? known->second.second : nullptr;
        ASSERT_EQ(tlb->find(tlb->write_tag, page, 8), want) << "step " << step << " slot " << s;
      }
  }
}

}  // namespace
}  // namespace ostler::mmu
