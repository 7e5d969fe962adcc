// Which pages a guest has written: by bitmaps and by rings, with the host's kernel and with a scripted one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>

#include "accel/kvm/kvm_engine.h"
#include "fake_kvm.h"
#include "guests.h"
#include "rig.h"

namespace ostler::accel {
namespace {

using kvm::DirtyPage;
using kvm::DirtyRing;
using kvm::FakeKvm;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Pages = std::vector<uint64_t>;

constexpr uint32_t kEntries = DirtyRing::kLeastEntries;

// Offsets in `ram` that are noted, and begins anew.
Pages noted(memory::RamBlock& ram) {
  std::vector<uint64_t> bitmap;
  ram.collect_dirty(bitmap);
  Pages pages;
  for (uint64_t page = 0; page < ram.size() / kPageSize; ++page)
    if ((bitmap[page / 64] >> page % 64 & 1) != 0) pages.push_back(page * kPageSize);
  return pages;
}

// ---- the host's kernel ----
// With rings, or bitmaps.
class KvmDirtyLog : public ::testing::TestWithParam<std::tuple<const char*, bool>> {
 protected:
  static constexpr uint64_t kMore = 0x1000000, kMorePages = 2 * kEntries;

  explicit KvmDirtyLog(uint32_t entries = kEntries) : entries_(entries) {}
  void SetUp() override {
    make(rig_, std::get<1>(GetParam()));
    engine_ = rig_.make(std::get<0>(GetParam()));
    ASSERT_NE(engine_, nullptr);
  }
  // More pages than a ring has room for, at kMore.
  void make(Rig& rig, bool rings) {
    if (rings) rig.dirty_ring_entries = entries_;
    memory::Transaction change(rig.memory);
    change.add(rig.memory.root(), kMore, more_region_);
  }
  void start(std::span<const uint8_t> code) {
    rig_.place(code);
    rig_.start(*engine_, Mode::kProtected);
    rig_.ram->start_dirty_log();
    more_->start_dirty_log();
    rig_.vm->set_dirty_log(true);
  }
  // Until the guest's next write to kStopPort.
  void run() {
    rig_.log.clear();
    ASSERT_EQ(rig_.run(*engine_), VcpuExit::kStopped);
  }
  Pages collected() {
    rig_.vm->collect_dirty();
    return noted(*rig_.ram);
  }

  const uint32_t entries_;
  std::shared_ptr<memory::RamBlock> more_ =
      *memory::RamBlock::create({.name = "more", .size = kMorePages * kPageSize});
  memory::RamRegion more_region_{"more", more_};
  Rig rig_;
  std::unique_ptr<Engine> engine_;
};

GUEST(two_writes32, ".code32",
      "movl $1, 0x20000; out %al, $0x80; movl $1, 0x31000; movl $1, 0x31008; out %al, $0x80; hlt")
TEST_P(KvmDirtyLog, TellsThePagesThatWereWrittenSinceTheLastTime) {
  start(two_writes32());
  run();
  EXPECT_THAT(collected(), ElementsAre(0x20000));
  EXPECT_THAT(collected(), IsEmpty());
  run();
  EXPECT_THAT(collected(), ElementsAre(0x31000));
  rig_.vm->set_dirty_log(false);
}

GUEST(same_page32, ".code32", "1: incl 0x20000; out %al, $0x80; jmp 1b")
TEST_P(KvmDirtyLog, TellsAPageAgainThatIsWrittenAgain) {
  start(same_page32());
  for (int round = 0; round < 3; ++round) {
    run();
    EXPECT_THAT(collected(), ElementsAre(0x20000));
  }
}

TEST_P(KvmDirtyLog, ForgetsWhatWasWrittenBeforeItIsOnAgain) {
  start(same_page32());
  run();
  rig_.vm->set_dirty_log(false);
  run();
  rig_.vm->set_dirty_log(true);
  EXPECT_THAT(collected(), IsEmpty());
  run();
  EXPECT_THAT(collected(), ElementsAre(0x20000));
}

GUEST(alias_write32, ".code32", "movl $1, 0xf0010; out %al, $0x80; movl $2, 0x20000; out %al, $0x80; hlt")
TEST_P(KvmDirtyLog, KeepsWhatWasWrittenToMemoryThatIsTakenAway) {
  start(alias_write32());
  run();
  memory::Transaction(rig_.memory).remove(rig_.alias);
  // Gets the number of the slot that went.
  memory::AliasRegion other("other", rig_.ram_region, 0x40000, 4096);
  memory::Transaction(rig_.memory).add(rig_.memory.root(), kHole, other);
  EXPECT_THAT(collected(), ElementsAre(kAliased));
  run();
  EXPECT_THAT(collected(), ElementsAre(0x20000));
  memory::Transaction(rig_.memory).remove(other);
}

// Every second page of those at kMore.
GUEST(strides32, ".code32",
      "mov $0x1000000, %edi; 1: incl (%edi); add $0x2000, %edi; cmp $0x1800000, %edi; jb 1b\n"
      "out %al, $0x80; hlt")
Pages strides() {
  Pages pages;
  for (uint64_t at = 0; at < 0x800000; at += 2 * kPageSize) pages.push_back(at);
  return pages;
}
// The rings have room for all.
class KvmDirtyLogWithRoom : public KvmDirtyLog {
 protected:
  KvmDirtyLogWithRoom() : KvmDirtyLog(8 * kEntries) {}
};
TEST_P(KvmDirtyLogWithRoom, TellsJustThosePages) {
  static_assert(kMore + kMorePages * kPageSize == 0x1800000);
  start(strides32());
  run();
  collected();
  EXPECT_EQ(noted(*more_), strides());
}

// A kernel that emulates looks at its rings seldom, and we then count all as written.
TEST_P(KvmDirtyLog, MissesNoneOfMorePagesThanARingHas) {
  start(strides32());
  run();
  collected();
  const Pages pages = noted(*more_);
  EXPECT_TRUE(std::ranges::includes(pages, strides()));
}

GUEST(all_of_it32, ".code32",
      "mov $0x1000000, %edi; 1: incl (%edi); add $0x1000, %edi; cmp $0x1800000, %edi; jb 1b\n"
      "out %al, $0x80; hlt")
TEST_P(KvmDirtyLog, GoesOnWhileOthersCollect) {
  start(all_of_it32());
  std::vector<bool> told(kMorePages);
  const auto collect = [&] {
    rig_.vm->collect_dirty();
    for (const uint64_t offset : noted(*more_)) told[offset / kPageSize] = true;
  };
  std::atomic<bool> done{false};
  std::thread collector([&] {
    while (!done) collect();
  });
  run();
  done = true;
  collector.join();
  collect();
  EXPECT_EQ(std::count(told.begin(), told.end(), true), static_cast<ptrdiff_t>(kMorePages));
}

const auto kKinds = ::testing::Combine(::testing::ValuesIn(Rig::kvm_if_here()), ::testing::Bool());
std::string name_of(const ::testing::TestParamInfo<std::tuple<const char*, bool>>& test) {
  return std::string(std::get<0>(test.param)) + (std::get<1>(test.param) ? "_rings" : "_bitmaps");
}
INSTANTIATE_TEST_SUITE_P(Here, KvmDirtyLog, kKinds, name_of);
INSTANTIATE_TEST_SUITE_P(Here, KvmDirtyLogWithRoom, kKinds, name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KvmDirtyLog);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KvmDirtyLogWithRoom);

// ---- a kernel that is scripted ----
class FakeDirtyRing : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_.extensions = {{KVM_CAP_DIRTY_LOG_RING, 65536 * sizeof(kvm_dirty_gfn)}};
    rig_.vm = *kvm::Vm::create(*fake_.open(), rig_.memory, {.irqchip = {}, .dirty_ring_entries = kEntries});
    engine_ = *kvm::KvmEngine::create(rig_.engine_context());
    rig_.start(*engine_, Mode::kReal);
    fake_.on_reset_rings = [this] { return reset(); };
    rig_.ram->start_dirty_log();
    rig_.vm->set_dirty_log(true);
  }
  // As the kernel does both; one that emulates goes on when there is no room.
  void push(uint32_t slot, uint64_t page) {
    kvm_dirty_gfn& entry = fake_.dirty_ring()[pushed_++ % kEntries];
    entry = {.flags = KVM_DIRTY_GFN_F_DIRTY, .slot = slot, .offset = page};
  }
  int reset() {
    int count = 0;
    for (; fake_.dirty_ring()[reset_ % kEntries].flags == KVM_DIRTY_GFN_F_RESET; ++count)
      fake_.dirty_ring()[reset_++ % kEntries].flags = 0;
    return count;
  }
  Pages collected() {
    rig_.vm->collect_dirty();
    return noted(*rig_.ram);
  }

  Rig rig_;
  FakeKvm fake_;
  std::unique_ptr<kvm::KvmEngine> engine_;
  uint32_t pushed_ = 0, reset_ = 0;
};

TEST_F(FakeDirtyRing, GoesRoundAndRound) {
  for (uint64_t i = 0; i < 3 * kEntries; ++i) {
    const uint64_t page = i % (kRamSize / kPageSize);
    push(0, page);
    ASSERT_THAT(collected(), ElementsAre(page * kPageSize)) << i;
  }
}

TEST_F(FakeDirtyRing, IsReadToItsEnd) {
  for (uint64_t i = 0; i < kEntries - 1; ++i) push(0, i % 4);
  EXPECT_THAT(collected(), ElementsAre(0, 0x1000, 0x2000, 0x3000));
  EXPECT_EQ(fake_.count("KVM_RESET_DIRTY_RINGS"), 1u);
}

TEST_F(FakeDirtyRing, ThatRanOverCountsAllAsWrittenAndGoesOn) {
  for (unsigned round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < kEntries + 5; ++i) push(0, 3);
    EXPECT_EQ(collected().size(), kRamSize / kPageSize);
    EXPECT_THAT(collected(), IsEmpty());
    for (uint64_t i = 0; i < 2 * kEntries; ++i) {
      push(0, i % 16);
      ASSERT_THAT(collected(), ElementsAre(i % 16 * kPageSize)) << i;
    }
    EXPECT_EQ(reset_, pushed_) << "the kernel has all entries back";
  }
}

TEST_F(FakeDirtyRing, AnEmptyOneAsksNothingOfTheKernel) {
  EXPECT_THAT(collected(), IsEmpty());
  EXPECT_EQ(fake_.count("KVM_RESET_DIRTY_RINGS"), 0u);
}

TEST_F(FakeDirtyRing, WhatNoSlotHasIsLeftAside) {
  push(77, 0);
  push(0, kRamSize / kPageSize);
  push(0, ~uint64_t{0});
  push(1 << 16, 3);  // of another address space
  push(0, 5);
  EXPECT_THAT(collected(), ElementsAre(0x5000));
}

TEST_F(FakeDirtyRing, AVcpuWithAFullOneEmptiesItAndGoesOn) {
  unsigned rounds = 0;
  fake_.on_run = [&](kvm_run& run) {
    if (++rounds > 2) {
      engine_->kick();
      return -EINTR;
    }
    push(0, rounds);
    run.exit_reason = KVM_EXIT_DIRTY_RING_FULL;
    return 0;
  };
  EXPECT_EQ(engine_->run(), VcpuExit::kStopped);
  EXPECT_EQ(fake_.count("KVM_RESET_DIRTY_RINGS"), 2u);
  EXPECT_THAT(noted(*rig_.ram), ElementsAre(0x1000, 0x2000));
}

// Else who reads the page at once could miss a write that nothing notes.
TEST_F(FakeDirtyRing, APageIsProtectedAgainBeforeAnybodyHearsOfIt) {
  bool heard = false;
  fake_.on_reset_rings = [&] {
    heard = heard || !noted(*rig_.ram).empty();
    return reset();
  };
  push(0, 9);
  EXPECT_THAT(collected(), ElementsAre(0x9000));
  EXPECT_FALSE(heard);
}

TEST_F(FakeDirtyRing, ASignalDoesNotEndTheReset) {
  unsigned signals = 2;
  fake_.on_reset_rings = [&] { return signals-- != 0 ? -EINTR : reset(); };
  push(0, 9);
  EXPECT_THAT(collected(), ElementsAre(0x9000));
  EXPECT_EQ(fake_.dirty_ring()[0].flags, 0u);
}

TEST_F(FakeDirtyRing, AResetThatIsRefusedEndsNothing) {
  fake_.on_reset_rings = [] { return -EINVAL; };
  push(0, 9);
  EXPECT_THAT(collected(), ElementsAre(0x9000));
  push(0, 10);
  EXPECT_THAT(collected(), ElementsAre(0xa000));
}

TEST_F(FakeDirtyRing, WhatIsLeftWhenItEndsIsForgotten) {
  push(0, 9);
  rig_.vm->set_dirty_log(false);
  rig_.vm->set_dirty_log(true);
  EXPECT_THAT(collected(), IsEmpty());
  EXPECT_EQ(fake_.dirty_ring()[0].flags, 0u);
}

}  // namespace
}  // namespace ostler::accel
