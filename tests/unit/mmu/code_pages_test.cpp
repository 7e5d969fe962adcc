// Self- and cross-modifying code: who is told of a write to decoded bytes, when, and how plain memory gets
// fast again.
#include "mmu/code_pages.h"

#include <algorithm>

#include "fixtures.h"
#include "memory/dma.h"

namespace ostler::mmu {
namespace {

namespace flag = memory::page_flag;

struct Recorder : CodeObserver {
  struct Call {
    uint64_t page;
    unsigned first, last;
    friend bool operator==(const Call&, const Call&) = default;
  };
  bool code_written(GuestPhys page, unsigned first, unsigned last) override {
    calls.push_back({page.value, first, last});
    return keeps;
  }
  std::vector<Call> take() { return std::exchange(calls, {}); }
  std::vector<Call> calls;
  bool keeps = true;
};
using Calls = std::vector<Recorder::Call>;

// Without paging: linear is physical. One thread plays both vCPUs: a runs, but in on_b().
class CodePagesTest : public ::testing::Test {
 protected:
  CodePagesTest() {
    b.mmu.participant().leave_running();
    a.mmu.participant().enter_running();
    a.mmu.set_code_observer(&seen_by_a);
    b.mmu.set_code_observer(&seen_by_b);
  }
  template <class F>
  void on_b(F&& f) {
    a.mmu.participant().leave_running();
    b.mmu.participant().enter_running();
    f();
    b.mmu.participant().leave_running();
    a.mmu.participant().enter_running();
  }
  void decode(Vcpu& cpu, uint64_t at) {
    const auto read = [&] {
      std::vector<uint8_t> bytes(16);
      EXPECT_TRUE(cpu.mmu.read_code({at}, bytes));
    };
    if (&cpu == &b)
      on_b(read);
    else
      read();
  }
  void serve_b() {
    on_b([&] { b.mmu.serve_group(); });
  }
  uint8_t flags(uint64_t at) const { return machine.block->flags(at).load(); }
  // Hits on whole pages until writes beside the code are told apart from writes to it.
  void make_granular(Vcpu& cpu, uint64_t at) {
    for (unsigned i = 0; i < CodePages::kWholePageHits; ++i) {
      decode(cpu, at);
      cpu.mmu.write<uint8_t>(at, 0x90);
    }
    seen_by_a.take();
    seen_by_b.take();
  }
  static constexpr uint64_t kCodeAt = 0x5100;

  Machine machine;
  Vcpu a{machine}, b{machine};
  Recorder seen_by_a, seen_by_b;
};

TEST_F(CodePagesTest, ReadsTheBytes) {
  machine.poke<uint32_t>(kCodeAt, 0xc3909090);
  uint8_t bytes[4];
  EXPECT_TRUE(a.mmu.read_code({kCodeAt}, bytes));
  EXPECT_EQ(load_le<uint32_t>(bytes), 0xc3909090u);
  EXPECT_TRUE(flags(kCodeAt) & flag::kCode);
}

TEST_F(CodePagesTest, OwnWritesAreToldAtOnceAndAfterTheBytes) {
  decode(a, kCodeAt);
  struct Check : CodeObserver {
    bool code_written(GuestPhys, unsigned, unsigned) override {
      value = machine->peek<uint32_t>(kCodeAt);
      return false;
    }
    Machine* machine = nullptr;
    uint32_t value = 0;
  } check;
  check.machine = &machine;
  a.mmu.set_code_observer(&check);
  a.mmu.write<uint32_t>(kCodeAt, 0x1234);
  EXPECT_EQ(check.value, 0x1234u);
}

TEST_F(CodePagesTest, OthersAreToldBeforeTheirNextBlock) {
  unsigned kicks = 0;
  b.mmu.participant().set_kick([&] { ++kicks; });
  decode(b, kCodeAt);
  a.mmu.write<uint32_t>(kCodeAt, 0x1234);
  EXPECT_EQ(seen_by_b.calls, Calls{}) << "not on the writer's thread";
  EXPECT_TRUE(b.mmu.participant().pending());
  EXPECT_GE(kicks, 1u);
  serve_b();
  ASSERT_EQ(seen_by_b.calls.size(), 1u);
  EXPECT_EQ(seen_by_b.calls[0].page, 0x5000u);
  EXPECT_LE(seen_by_b.calls[0].first, 0x100u);
  EXPECT_GE(seen_by_b.calls[0].last, 0x10fu);
  EXPECT_FALSE(b.mmu.participant().pending());
  EXPECT_EQ(seen_by_a.calls, Calls{}) << "a has no code there";
}

// In the middle of a block, after a device access, stale code must stay: the block is running.
TEST_F(CodePagesTest, EnteringAgainDoesNotDropCode) {
  decode(b, kCodeAt);
  a.mmu.write<uint32_t>(kCodeAt, 0x1234);
  on_b([&] {
    EXPECT_EQ(seen_by_b.calls, Calls{});
    EXPECT_TRUE(b.mmu.participant().pending());
  });
  serve_b();
  EXPECT_EQ(seen_by_b.calls.size(), 1u);
}

TEST_F(CodePagesTest, DmaIsToldLikeAnotherVcpu) {
  decode(a, kCodeAt);
  memory::Dma dma(machine.space);
  EXPECT_TRUE(dma.write_le<uint8_t>({kCodeAt + 1}, 1));
  EXPECT_EQ(seen_by_a.calls, Calls{});
  a.mmu.serve_group();
  EXPECT_EQ(seen_by_a.calls.size(), 1u);
}

// What is kept for all vCPUs: bytes that were protected are not protected twice, unless they no longer are.
class SharedCodeTest : public CodePagesTest {
 protected:
  struct Observer : SharedCodeObserver {
    void shared_code_written(GuestPhys page, unsigned, unsigned) override { told.push_back(page.value); }
    std::vector<uint64_t> told;
  } observer;
  SharedCodeTest() { machine.code.set_shared_observer(&observer); }
  ~SharedCodeTest() override { machine.code.set_shared_observer(nullptr); }
  bool told_of_a_write(uint64_t at) {
    observer.told.clear();
    on_b([&] { b.mmu.write<uint8_t>(at, 0x90); });
    return !observer.told.empty();
  }
  void read(uint64_t at) {
    uint8_t bytes[16];
    EXPECT_TRUE(a.mmu.read_code({at}, bytes, true));
  }
};

TEST_F(SharedCodeTest, IsProtectedAgainAfterAWrite) {
  for (unsigned i = 0; i < CodePages::kWholePageHits + 3; ++i) {
    read(kCodeAt);
    read(kCodeAt);
    EXPECT_TRUE(told_of_a_write(kCodeAt)) << i;
    EXPECT_FALSE(told_of_a_write(kCodeAt)) << i;
  }
}

TEST_F(SharedCodeTest, IsProtectedAgainAfterEverythingWasForgotten) {
  read(kCodeAt);
  machine.code.forget_shared();
  EXPECT_FALSE(told_of_a_write(kCodeAt));
  read(kCodeAt);
  machine.code.forget_shared();
  read(kCodeAt);
  EXPECT_TRUE(told_of_a_write(kCodeAt));
}

TEST_F(SharedCodeTest, EachGranuleIsProtected) {
  for (unsigned i = 0; i < CodePages::kWholePageHits; ++i) {
    read(kCodeAt);
    EXPECT_TRUE(told_of_a_write(kCodeAt));
  }
  read(kCodeAt);
  read(kCodeAt + 0x200);
  read(kCodeAt + 0x1000);  // another page
  read(kCodeAt + 0x400);
  for (const uint64_t at : {uint64_t{0}, uint64_t{0x200}, uint64_t{0x1000}, uint64_t{0x400}})
    EXPECT_TRUE(told_of_a_write(kCodeAt + at)) << at;
}

TEST_F(CodePagesTest, WriteTagsOfAllVcpusAreDropped) {
  a.mmu.write<uint8_t>(0x5000, 1);
  on_b([&] { b.mmu.write<uint8_t>(0x5000, 1); });
  ASSERT_NE(b.mmu.hit_write<uint8_t>(0x5000), nullptr);
  decode(a, kCodeAt);
  EXPECT_EQ(a.mmu.hit_write<uint8_t>(0x5000), nullptr);
  on_b([&] {
    EXPECT_EQ(b.mmu.hit_write<uint8_t>(0x5000), nullptr);
    EXPECT_NE(b.mmu.hit_read<uint8_t>(0x5000), nullptr);
    EXPECT_EQ(b.mmu.rmw_pointer(0x5000, 4), nullptr);
  });
}

TEST_F(CodePagesTest, APageWithoutCodeIsFastAgain) {
  decode(a, kCodeAt);
  EXPECT_EQ(a.mmu.rmw_pointer(kCodeAt, 4), nullptr);
  a.mmu.write<uint8_t>(kCodeAt, 1);
  EXPECT_FALSE(flags(kCodeAt) & flag::kCode);
  a.mmu.write<uint8_t>(kCodeAt, 1);
  EXPECT_NE(a.mmu.hit_write<uint8_t>(kCodeAt), nullptr);
  EXPECT_EQ(seen_by_a.calls.size(), 1u);
}

TEST_F(CodePagesTest, ForgettingAllCodeFreesItsPages) {
  decode(a, kCodeAt);
  decode(b, kCodeAt);
  a.mmu.forget_code();
  EXPECT_TRUE(flags(kCodeAt) & flag::kCode) << "b still has some";
  b.mmu.forget_code();
  EXPECT_FALSE(flags(kCodeAt) & flag::kCode);
}

TEST_F(CodePagesTest, DataBesideHotCodeCostsNoInvalidation) {
  make_granular(a, kCodeAt);
  decode(a, kCodeAt);
  decode(b, kCodeAt + 0x80);
  a.mmu.write<uint64_t>(kCodeAt + 0x40, 7);
  serve_b();
  EXPECT_EQ(seen_by_a.take(), Calls{});
  EXPECT_EQ(seen_by_b.take(), Calls{});
  EXPECT_EQ(machine.peek<uint64_t>(kCodeAt + 0x40), 7u);
  EXPECT_EQ(a.mmu.hit_write<uint8_t>(kCodeAt), nullptr) << "the page keeps its code";

  a.mmu.write<uint64_t>(kCodeAt + 0x88, 7);
  serve_b();
  EXPECT_EQ(seen_by_a.take(), Calls{});
  EXPECT_EQ(seen_by_b.take(), (Calls{{0x5000, 0x180, 0x1bf}})) << "exactly the granule";
  seen_by_a.keeps = false;
  a.mmu.write<uint16_t>(kCodeAt - 1, 7);
  EXPECT_EQ(seen_by_a.take(), (Calls{{0x5000, 0x100, 0x13f}})) << "half in a granule with code";
  EXPECT_FALSE(flags(kCodeAt) & flag::kCode) << "the last code has gone";
}

TEST_F(CodePagesTest, WritesThatCrossIntoCodeAreSeen) {
  decode(a, 0x6000);
  a.mmu.write<uint64_t>(0x5ffc, ~uint64_t{0});
  ASSERT_EQ(seen_by_a.calls.size(), 1u);
  EXPECT_EQ(seen_by_a.calls[0].page, 0x6000u);
}

TEST_F(CodePagesTest, LockedWritesToCodeGoTheExclusiveWay) {
  decode(a, kCodeAt);
  EXPECT_EQ(a.mmu.rmw_pointer(kCodeAt, 4), nullptr);
  EXPECT_EQ(a.mmu.exclusive_rmw<uint32_t>(kCodeAt, [](uint32_t value) { return value + 5; }), 0u);
  EXPECT_EQ(machine.peek<uint32_t>(kCodeAt), 5u);
  EXPECT_EQ(seen_by_a.calls.size(), 1u);
}

TEST_F(CodePagesTest, AliasesOfAPageAreOnePage) {
  memory::AliasRegion alias("alias", machine.ram, 0x5000, 0x1000);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, alias);
  decode(a, kCodeAt);
  decode(a, 0x40000100);
  a.mmu.write<uint8_t>(kCodeAt, 1);
  std::vector<uint64_t> pages;
  for (const auto& call : seen_by_a.calls) pages.push_back(call.page);
  std::sort(pages.begin(), pages.end());
  EXPECT_EQ(pages, (std::vector<uint64_t>{0x5000, 0x40000000}));
}

TEST_F(CodePagesTest, CodeOnAPageTableIsToldOfAccessedBits) {
  Tables tables(machine);
  a.long_mode(tables.cr3());
  tables.map(0x10000, 0x5003);
  const uint64_t entry = tables.entry(0x10000);
  decode(a, entry);
  a.mmu.read<uint8_t>(0x10000);
  EXPECT_EQ(machine.peek<uint64_t>(entry), 0x5023u);
  a.mmu.serve_group();
  EXPECT_EQ(seen_by_a.calls.size(), 1u);
}

TEST_F(CodePagesTest, CodeGoesWithItsMemory) {
  auto extra_block = ram_of(0x2000);
  memory::RamRegion extra("extra", extra_block);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, extra);
  decode(a, 0x40001000);
  decode(a, kCodeAt);
  memory::Transaction(machine.space).remove(extra);
  a.mmu.serve_group();
  ASSERT_EQ(seen_by_a.calls.size(), 1u);
  EXPECT_EQ(seen_by_a.calls[0].page, 0x40001000u);
  EXPECT_FALSE(extra_block->flags(0x1000).load() & flag::kCode);
}

// A vCPU may have looked up where code lies just before the memory went: nobody would tell it later that the
// code is stale, and the registration would outlive the memory.
TEST_F(CodePagesTest, CodeOfMemoryThatHasJustGoneIsNotRegistered) {
  auto extra_block = ram_of(0x2000);
  memory::RamRegion extra("extra", extra_block);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, extra);
  memory::Transaction(machine.space).remove(extra);
  const auto protect = [&](uint64_t page) {
    return machine.code.protect(a.mmu.participant(), *extra_block, 0x1010, 4, {page});
  };
  EXPECT_FALSE(protect(0x40001000));
  EXPECT_FALSE(extra_block->flags(0x1000).load() & flag::kCode);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, extra);
  EXPECT_TRUE(protect(0x40001000));
  EXPECT_FALSE(protect(0x40000000)) << "another page of it lies there";
  memory::Transaction(machine.space).remove(extra);
}

TEST_F(CodePagesTest, CodeInRomIsKeptAndInDevicesIsNot) {
  uint8_t bytes[8] = {};
  machine.rom_block->host()[3] = std::byte{0xea};
  EXPECT_TRUE(a.mmu.read_code({kRom}, bytes));
  EXPECT_EQ(bytes[3], 0xea);
  EXPECT_FALSE(a.mmu.read_code({kDevice}, bytes));
  EXPECT_EQ(bytes[0], 0x11);
  EXPECT_FALSE(a.mmu.read_code({0xd0000000}, bytes));
  EXPECT_EQ(bytes[0], 0xff);
}

TEST_F(CodePagesTest, DirtyLoggingSeesWritesToCode) {
  make_granular(a, kCodeAt);
  decode(a, kCodeAt);
  machine.block->start_dirty_log();
  a.mmu.write<uint8_t>(kCodeAt + 0x800, 1);
  std::vector<uint64_t> bitmap;
  machine.block->collect_dirty(bitmap);
  EXPECT_EQ(bitmap[0], 1u << 5);
}

}  // namespace
}  // namespace ostler::mmu
