// The page walk against a second one, written from SDM Vol. 3A §4 as tables of which bits mean what, over
// random page tables in every paging mode and every combination of control bits. A failing case prints its
// seed.
#include "mmu/page_walk.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace ostler::mmu {
namespace {

// Page-table memory as 64 KiB that repeats itself everywhere below `limit`; above: nothing there.
struct FakeMemory {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(0x10000);
  uint64_t limit = ~uint64_t{0};
  unsigned writes = 0;

  uint64_t read(GuestPhys at, unsigned size) {
    if (at.value >= limit) return size == 4 ? 0xffffffffu : ~uint64_t{0};
    uint64_t value = 0;
    memcpy(&value, &bytes[at.value % bytes.size()], size);
    return value;
  }
  bool replace(GuestPhys at, unsigned size, uint64_t expected, uint64_t desired) {
    ++writes;
    if (at.value >= limit) return true;
    EXPECT_EQ(read(at, size), expected);
    memcpy(&bytes[at.value % bytes.size()], &desired, size);
    return true;
  }
};

struct Expected {
  bool ok = false;
  uint32_t error = 0;
  uint64_t phys = 0;
  uint64_t page_size = 0;
  bool global = false;
};

// The second walker. Recursive, on a copy of memory, without any helper of the first.
class Oracle {
 public:
  Oracle(const PagingContext& context, FakeMemory& tables) : c(context), memory(tables) {}

  Expected run(uint64_t linear, char kind, bool user, bool ac) {
    kind_ = kind, user_ = user, ac_ = ac, linear_ = linear;
    if (c.mode == PagingMode::kNone) return {true, 0, linear & 0xffffffff, 4096, false};
    if (c.mode == PagingMode::k32Bit) return legacy();
    if (c.mode == PagingMode::kPae) {
      const uint64_t e = c.pdpte[linear >> 30 & 3];
      if (!(e & 1)) return deny(false, false);
      return table(2, frame(e), true, true, false);
    }
    const int top = c.mode == PagingMode::k5Level ? 5 : 4;
    return table(top, frame(c.cr3), true, true, false);
  }

 private:
  uint64_t frame(uint64_t e) const { return e & ((uint64_t{1} << c.phys_bits) - 1) & ~uint64_t{0xfff}; }

  Expected deny(bool present, bool reserved) const {
    uint32_t code = 0;
    if (present) code += 1;
    if (kind_ == 'w') code += 2;
    if (user_) code += 4;
    if (reserved) code += 8;
    if (kind_ == 'x' && (c.smep || (c.mode != PagingMode::k32Bit && c.nxe))) code += 16;
    return {false, code, 0, 0, false};
  }

  // SDM §4.6.1, sentence by sentence.
  bool allowed(bool user_mode_address, bool read_write, bool execute_disable) const {
    if (!user_) {
      if (kind_ == 'r') {
        if (!user_mode_address) return true;
        return !c.smap || ac_;
      }
      if (kind_ == 'w') {
        if (!user_mode_address) return c.wp ? read_write : true;
        if (c.smap && !ac_) return false;
        return c.wp ? read_write : true;
      }
      if (!user_mode_address) return !execute_disable;
      return !c.smep && !execute_disable;
    }
    if (!user_mode_address) return false;
    if (kind_ == 'r') return true;
    if (kind_ == 'w') return read_write;
    return !execute_disable;
  }

  Expected legacy() {
    const uint64_t pde_at = (c.cr3 & 0xfffff000) + (linear_ >> 22 & 0x3ff) * 4;
    const uint64_t pde = memory.read({pde_at}, 4);
    if (!(pde & 1)) return deny(false, false);
    if (c.pse && (pde & 0x80)) {
      // 4-MByte page: 31:22 | PSE-36 in 20:13; 21 reserved, and those of 20:13 beyond MAXPHYADDR.
      uint64_t phys = pde & 0xffc00000;
      for (int i = 13; i <= 20; ++i) {
        if (!(pde >> i & 1)) continue;
        const unsigned physical_bit = 32 + i - 13;
        if (physical_bit >= c.phys_bits) return deny(true, true);
        phys |= uint64_t{1} << physical_bit;
      }
      if (pde >> 21 & 1) return deny(true, true);
      if (!allowed(pde & 4, pde & 2, false)) return deny(true, false);
      mark(pde_at, 4, pde, true);
      return {true, 0, phys | (linear_ & 0x3fffff), 4 << 20, c.pge && (pde & 0x100)};
    }
    mark(pde_at, 4, pde, false);
    const uint64_t pte_at = (pde & 0xfffff000) + (linear_ >> 12 & 0x3ff) * 4;
    const uint64_t entry = memory.read({pte_at}, 4);
    if (!(entry & 1)) return deny(false, false);
    if (!allowed(pde & entry & 4, pde & entry & 2, false)) return deny(true, false);
    mark(pte_at, 4, entry, true);
    return {true, 0, (entry & 0xfffff000) | (linear_ & 0xfff), 4096, c.pge && (entry & 0x100)};
  }

  Expected table(int level, uint64_t base, bool us, bool rw, bool xd) {
    const int shift = 12 + 9 * (level - 1);
    const uint64_t at = base + (linear_ >> shift & 0x1ff) * 8;
    const uint64_t e = memory.read({at}, 8);
    if (!(e & 1)) return deny(false, false);
    const bool ps = e & 0x80;
    const bool leaf = level == 1 || (ps && (level == 2 || (level == 3 && c.gib_pages)));
    bool bad = false;
    for (int i = 12; i < 63; ++i) {
      if (!(e >> i & 1)) continue;
      if (i >= static_cast<int>(c.phys_bits) && (i <= 51 || c.mode == PagingMode::kPae)) bad = true;
      if (leaf && level > 1 && i > 12 && i < shift) bad = true;
    }
    if ((e >> 63) && !c.nxe) bad = true;
    if (ps && !leaf) bad = true;
    if (bad) return deny(true, true);
    us = us && (e & 4), rw = rw && (e & 2), xd = xd || (c.nxe && (e >> 63));
    if (!leaf) {
      mark(at, 8, e, false);
      return table(level - 1, frame(e), us, rw, xd);
    }
    if (!allowed(us, rw, xd)) return deny(true, false);
    mark(at, 8, e, true);
    const uint64_t inside = (uint64_t{1} << shift) - 1;
    return {true, 0, (frame(e) & ~inside) | (linear_ & inside), inside + 1, c.pge && (e & 0x100)};
  }

  void mark(uint64_t at, unsigned size, uint64_t old, bool last) {
    uint64_t now = old | 0x20;
    if (last && kind_ == 'w') now |= 0x40;
    if (at < memory.limit) memcpy(&memory.bytes[at % memory.bytes.size()], &now, size);
  }

  const PagingContext& c;
  FakeMemory& memory;
  char kind_ = 'r';
  bool user_ = false, ac_ = false;
  uint64_t linear_ = 0;
};

// Entries that are mostly valid, so that walks get deep, with every bit wrong now and then.
uint64_t random_entry(std::mt19937_64& random, const PagingContext& c) {
  const uint64_t r = random();
  uint64_t e = random() & 0xfff;
  if (r % 16 != 0) e |= 1;
  if (r / 16 % 4 != 0) e |= 4;
  if (r / 64 % 4 != 0) e |= 2;
  if (r / 256 % 4 != 0) e &= ~uint64_t{0x80};
  const uint64_t address = random() & ((uint64_t{1} << c.phys_bits) - 1) & ~uint64_t{0xfff};
  e |= (r / 1024 % 4 == 0 || !(e & 0x80)) ? address : address & ~uint64_t{0x3fffe000};
  if (r / 4096 % 8 == 0) e |= uint64_t{1} << 63;
  if (r / 32768 % 16 == 0) e |= uint64_t{1} << (random() % 64);
  return e;
}

void compare(PagingMode mode, uint64_t seed, unsigned tables, unsigned walks) {
  std::mt19937_64 random(seed);
  unsigned succeeded = 0, faulted = 0;
  for (unsigned t = 0; t < tables; ++t) {
    PagingContext c;
    c.mode = mode;
    const uint64_t r = random();
    c.wp = r & 1, c.pse = r & 2, c.pge = r & 4, c.smep = r & 8, c.smap = r & 16, c.nxe = (r & 0x60) != 0;
    c.gib_pages = (r & 0x180) != 0;
    constexpr unsigned kWidths[] = {36, 39, 40, 46, 52};
    c.phys_bits = kWidths[(r >> 9) % 5];
    c.cr3 = random() & ((uint64_t{1} << c.phys_bits) - 1);
    for (uint64_t& pdpte : c.pdpte)
      pdpte = (random() & ((uint64_t{1} << c.phys_bits) - 1) & ~uint64_t{0x1e6}) | (random() % 8 != 0);
    FakeMemory first;
    if (r >> 20 & 1) first.limit = uint64_t{1} << (c.phys_bits - 1);
    for (size_t i = 0; i < first.bytes.size(); i += 8) {
      uint64_t e = random_entry(random, c);
      if (mode == PagingMode::k32Bit) e = (e & 0xffffffff) | random_entry(random, c) << 32;
      memcpy(&first.bytes[i], &e, 8);
    }
    FakeMemory second = first;
    for (unsigned w = 0; w < walks; ++w) {
      const uint64_t linear = random();
      const char kind = "rwx"[random() % 3];
      const bool user = random() & 1, ac = random() & 1;
      const Expected expected = Oracle(c, second).run(linear, kind, user, ac);
      const Walk walk = PageWalker(c, first).walk(linear, {.kind = kind == 'r'   ? Access::kRead
                                                                   : kind == 'w' ? Access::kWrite
                                                                                 : Access::kFetch,
                                                           .user = user,
                                                           .smap_lifted = ac});
      ASSERT_EQ(walk.ok, expected.ok)
          << "seed " << seed << " table " << t << " walk " << w << " kind " << kind;
      if (walk.ok) {
        ++succeeded;
        ASSERT_EQ(walk.phys.value, expected.phys) << "seed " << seed << " table " << t << " walk " << w;
        ASSERT_EQ(walk.page_size, expected.page_size) << "seed " << seed << " table " << t << " walk " << w;
        ASSERT_EQ(walk.global, expected.global) << "seed " << seed << " table " << t << " walk " << w;
      } else {
        ++faulted;
        ASSERT_EQ(walk.error, expected.error)
            << "seed " << seed << " table " << t << " walk " << w << " kind " << kind;
      }
    }
    // Accessed and dirty bits, and nothing else, are the same everywhere.
    ASSERT_EQ(first.bytes, second.bytes) << "seed " << seed << " table " << t;
  }
  EXPECT_GT(succeeded, walks * tables / 50) << "the tables are too broken to show anything";
  EXPECT_GT(faulted, walks * tables / 50);
}

class PageWalkTest : public ::testing::TestWithParam<PagingMode> {};

TEST_P(PageWalkTest, MatchesTheSecondWalkerOnRandomTables) {
  const uint64_t seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  printf("seed %lu\n", seed);
  compare(GetParam(), seed, 1500, 400);
}

INSTANTIATE_TEST_SUITE_P(Modes, PageWalkTest,
                         ::testing::Values(PagingMode::k32Bit, PagingMode::kPae, PagingMode::k4Level,
                                           PagingMode::k5Level),
                         [](const auto& mode) {
                           switch (mode.param) {
                             case PagingMode::k32Bit:
                               return "Legacy";
                             case PagingMode::kPae:
                               return "Pae";
                             case PagingMode::k4Level:
                               return "FourLevel";
                             default:
                               return "FiveLevel";
                           }
                         });

TEST(PageWalk, WithoutPagingLinearIsPhysical) {
  FakeMemory memory;
  const PagingContext c;
  const Walk walk =
      PageWalker(c, memory).walk(0x1'2345'6789, {.kind = Access::kWrite, .user = true, .smap_lifted = false});
  EXPECT_TRUE(walk.ok);
  EXPECT_EQ(walk.phys.value, 0x23456789u);
  EXPECT_EQ(memory.writes, 0u);
}

// Another processor changes the entry between the read and the update: the walk begins anew with what is
// there now.
struct ChangingMemory : FakeMemory {
  uint64_t change_at = 0, change_to = 0;
  unsigned refused = 0;
  bool replace(GuestPhys at, unsigned size, uint64_t expected, uint64_t desired) {
    if (at.value == change_at && refused == 0) {
      ++refused;
      memcpy(&bytes[at.value], &change_to, size);
      return false;
    }
    return FakeMemory::replace(at, size, expected, desired);
  }
};

TEST(PageWalk, BeginsAnewWhenAnEntryChangesUnderIt) {
  ChangingMemory memory;
  const auto put = [&](uint64_t at, uint64_t value) { memcpy(&memory.bytes[at], &value, 8); };
  put(0x1000, 0x2007);
  put(0x2000, 0x3007);
  put(0x3000, 0x4007);
  put(0x4000, 0x5007);
  memory.change_at = 0x4000;
  memory.change_to = 0x6007;
  PagingContext c;
  c.mode = PagingMode::k4Level;
  c.cr3 = 0x1000;
  const Walk moved =
      PageWalker(c, memory).walk(0x123, {.kind = Access::kWrite, .user = false, .smap_lifted = false});
  EXPECT_TRUE(moved.ok);
  EXPECT_EQ(moved.phys.value, 0x6123u);
  EXPECT_EQ(memory.read({0x4000}, 8), 0x6067u);

  put(0x4000, 0x5007);
  memory.refused = 0;
  memory.change_to = 0x5000;  // unmapped meanwhile: no bit may be set in it
  const Walk gone =
      PageWalker(c, memory).walk(0x123, {.kind = Access::kRead, .user = false, .smap_lifted = false});
  EXPECT_FALSE(gone.ok);
  EXPECT_EQ(gone.error, 0u);
  EXPECT_EQ(memory.read({0x4000}, 8), 0x5000u);
}

}  // namespace
}  // namespace ostler::mmu
