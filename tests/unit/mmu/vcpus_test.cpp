// Several vCPU threads at once: locked accesses, code that others modify, memory that goes away, and every
// way of waiting for each other at the same time. Meant to be run under ThreadSanitizer as well.
#include <algorithm>
#include <atomic>
#include <functional>
#include <latch>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "fixtures.h"
#include "memory/dma.h"

namespace ostler::mmu {
namespace {

// A vCPU thread with the shape of a run loop: `block` runs between block heads until it returns false.
class Runner {
 public:
  // With `start`, all that share it begin together.
  Runner(Machine& machine, std::function<bool(SoftMmu&)> block, std::latch* start = nullptr)
      : mmu_(state_, machine.space, machine.code, {}), block_(std::move(block)), thread_([this, start] {
          if (start != nullptr) start->arrive_and_wait();
          run();
        }) {}
  void join() { thread_.join(); }

 private:
  void run() {
    mmu_.participant().enter_running();
    do {
      if (mmu_.participant().pending()) mmu_.serve_group();
    } while (block_(mmu_));
    mmu_.participant().leave_running();
  }
  x86::CpuState state_;
  SoftMmu mmu_;
  std::function<bool(SoftMmu&)> block_;
  std::thread thread_;
};

TEST(Vcpus, LockedAccessesThatCrossPagesAreAtomic) {
  Machine machine;
  constexpr unsigned kThreads = 3, kRounds = 300;
  std::latch start(kThreads);
  std::vector<std::unique_ptr<Runner>> vcpus;
  for (unsigned t = 0; t < kThreads; ++t) {
    vcpus.push_back(std::make_unique<Runner>(
        machine,
        [n = 0u](SoftMmu& mmu) mutable {
          mmu.exclusive_rmw<uint64_t>(0x5ffc, [](uint64_t value) { return value + 1; });
          // Plain accesses run between the others' exclusive sections.
          mmu.write<uint32_t>(0x8000, n);
          return ++n < kRounds;
        },
        &start));
  }
  for (auto& vcpu : vcpus) vcpu->join();
  EXPECT_EQ(machine.peek<uint64_t>(0x5ffc), kThreads * kRounds);
}

TEST(Vcpus, NobodyRunsGuestCodeDuringAnExclusiveSection) {
  Machine machine;
  std::atomic<bool> inside{false}, done{false};
  std::atomic<unsigned> overlaps{0}, others{0};
  std::vector<std::unique_ptr<Runner>> vcpus;
  vcpus.push_back(std::make_unique<Runner>(machine, [&, n = 0u](SoftMmu& mmu) mutable {
    if (others.load() < 2) return true;
    machine.group.run_exclusive(mmu.participant(), [&] {
      inside.store(true);
      std::this_thread::yield();  // so that somebody who should not run has his chance
      inside.store(false);
    });
    if (++n < 100) return true;
    done.store(true);
    return false;
  }));
  for (unsigned t = 0; t < 2; ++t) {
    vcpus.push_back(std::make_unique<Runner>(machine, [&, first = true](SoftMmu&) mutable {
      if (std::exchange(first, false)) others.fetch_add(1);
      for (int i = 0; i < 100; ++i) overlaps.fetch_add(inside.load());
      return !done.load();
    }));
  }
  for (auto& vcpu : vcpus) vcpu->join();
  EXPECT_EQ(overlaps.load(), 0u);
}

// "Decodes" a 32-bit number out of memory and runs it for as long as nobody says that it is stale.
struct Decoder : CodeObserver {
  bool code_written(GuestPhys, unsigned, unsigned) override {
    valid = false;
    return false;
  }
  uint32_t execute(SoftMmu& mmu, uint64_t at) {
    if (!valid) {
      uint8_t bytes[4];
      mmu.read_code({at}, bytes);
      code = load_le<uint32_t>(bytes);
      valid = true;
    }
    return code;
  }
  bool valid = false;
  uint32_t code = 0;
};

// SDM 3A §8.1.3: the writer stores new code, then sets a flag; who sees the flag and serializes runs the new
// code.
void cross_modify(bool by_dma) {
  Machine machine;
  constexpr uint64_t kCode = 0x5010, kFlag = 0x8000;
  constexpr uint32_t kRounds = 2000;
  std::atomic<unsigned> stale{0}, seen{0};
  std::vector<std::unique_ptr<Runner>> vcpus;
  std::vector<Decoder> decoders(2);
  for (Decoder& decoder : decoders) {
    vcpus.push_back(std::make_unique<Runner>(machine, [&](SoftMmu& mmu) {
      mmu.set_code_observer(&decoder);
      const auto flag = mmu.read<uint32_t>(kFlag);
      if (mmu.participant().pending()) mmu.serve_group();  // the block after a serializing instruction
      if (decoder.execute(mmu, kCode) < flag) stale.fetch_add(1);
      seen.fetch_add(1);
      if (flag < kRounds) return true;
      mmu.set_code_observer(nullptr);
      return false;
    }));
  }
  if (by_dma) {
    memory::Dma dma(machine.space);
    for (uint32_t n = 1; n <= kRounds; ++n) {
      ASSERT_TRUE(dma.write_le<uint32_t>({kCode}, n));
      ASSERT_TRUE(dma.store_release<uint32_t>({kFlag}, n));
      if (n % 8 == 0) std::this_thread::yield();
    }
  } else {
    vcpus.push_back(std::make_unique<Runner>(machine, [&, n = 1u](SoftMmu& mmu) mutable {
      mmu.write<uint32_t>(kCode, n);
      mmu.write<uint32_t>(kFlag, n);
      return ++n <= kRounds;
    }));
  }
  for (auto& vcpu : vcpus) vcpu->join();
  EXPECT_EQ(stale.load(), 0u) << "of " << seen.load();
}

TEST(Vcpus, CodeModifiedByAnotherVcpuIsNeverStaleAfterSerializing) {
  cross_modify(false);
}
TEST(Vcpus, CodeModifiedByDmaIsNeverStaleAfterSerializing) {
  cross_modify(true);
}

TEST(Vcpus, ACommitThatRemovesMemoryWaitsForTheLastAccess) {
  Machine machine;
  auto extra_block = ram_of(0x1000);
  memory::RamRegion extra("extra", extra_block);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, extra);
  std::atomic<bool> stop{false};
  std::vector<std::unique_ptr<Runner>> vcpus;
  for (unsigned t = 0; t < 2; ++t) {
    vcpus.push_back(std::make_unique<Runner>(machine, [&](SoftMmu& mmu) {
      for (int i = 0; i < 16; ++i) mmu.write<uint32_t>(0x40000010, 1);
      return !stop.load();
    }));
  }
  unsigned late = 0;
  for (int i = 0; i < 200; ++i) {
    { memory::Transaction(machine.space).set_enabled(extra, false); }
    memory::guest_fill(extra_block->host(), 0, 0x100);
    std::this_thread::yield();
    late += memory::guest_load<uint32_t>(extra_block->host() + 0x10) != 0;
    { memory::Transaction(machine.space).set_enabled(extra, true); }
  }
  stop.store(true);
  for (auto& vcpu : vcpus) vcpu->join();
  EXPECT_EQ(late, 0u);
}

TEST(Vcpus, DirtyLogLosesNoWrite) {
  Machine machine;
  constexpr unsigned kPages = 8;
  std::atomic<bool> stop{false};
  std::vector<std::unique_ptr<Runner>> vcpus;
  for (uint64_t t = 0; t < 2; ++t) {
    vcpus.push_back(std::make_unique<Runner>(machine, [&, t, n = 0u](SoftMmu& mmu) mutable {
      ++n;
      for (uint64_t page = 0; page < kPages; ++page)
        mmu.write<uint32_t>(0x10000 + page * kPageSize + t * 8, n);
      return !stop.load();
    }));
  }
  // A copy kept up to date from the log alone is the memory, once the writers have stopped.
  std::vector<std::byte> copy(machine.block->size());
  const auto round = [&] {
    std::vector<uint64_t> bitmap;
    machine.block->collect_dirty(bitmap);
    machine.group.drop_write_access(nullptr);
    for (uint64_t page = 0; page < copy.size() / kPageSize; ++page)
      if (bitmap[page / 64] >> (page % 64) & 1)
        memory::guest_copy(&copy[page * kPageSize], machine.block->host() + page * kPageSize, kPageSize);
  };
  machine.block->start_dirty_log();
  machine.group.drop_write_access(nullptr);
  memory::guest_copy(copy.data(), machine.block->host(), copy.size());
  for (int i = 0; i < 100; ++i) round();
  stop.store(true);
  for (auto& vcpu : vcpus) vcpu->join();
  round();
  EXPECT_EQ(memcmp(copy.data(), machine.block->host(), copy.size()), 0);
}

// A device that moves its own window when it is written to, under its lock.
class MovingDevice : public bus::IoHandler {
 public:
  explicit MovingDevice(memory::AddressSpace& space) : space_(space) {}
  std::string_view name() const override { return "moving"; }
  uint64_t io_read(uint64_t, unsigned) override {
    const std::lock_guard lock(mutex_);
    return moves_;
  }
  void io_write(uint64_t, unsigned, uint64_t) override {
    const std::lock_guard lock(mutex_);
    memory::Transaction(space_).set_enabled(*cover, ++moves_ % 2 == 0);
  }
  memory::Region* cover = nullptr;  // RAM that comes and goes

 private:
  memory::AddressSpace& space_;
  std::mutex mutex_;
  uint64_t moves_ = 0;
};

// Everything that waits for other vCPUs, at once. Passes by coming to an end.
TEST(Vcpus, WaitingForEachOtherNeverLocksUp) {
  Machine machine;
  MovingDevice device(machine.space);
  memory::IoRegion window("window", device, 0x1000);
  memory::RamRegion cover("cover", ram_of(0x1000));
  device.cover = &cover;
  {
    memory::Transaction change(machine.space);
    change.add(machine.space.root(), 0x50000000, window);
    change.add(machine.space.root(), 0x51000000, cover);
  }
  std::latch start(4);
  std::vector<std::unique_ptr<Runner>> vcpus;
  for (uint32_t t = 0; t < 4; ++t) {
    vcpus.push_back(
        std::make_unique<Runner>(machine, [random = std::mt19937(t), n = 0](SoftMmu& mmu) mutable {
          const uint64_t at = 0x10000 + random() % 4 * kPageSize + random() % 0x1ff * 8;
          uint8_t bytes[8];
          switch (random() % 8) {
            case 0:
              mmu.read_code({at}, bytes);
              break;
            case 1:
              mmu.exclusive_rmw<uint64_t>(0x10ffc, [](uint64_t value) { return value + 1; });
              break;
            case 2:
              mmu.exclusive_rmw<uint32_t>(0x50000000, [](uint32_t value) { return value; });
              break;
            case 3:
              mmu.write<uint32_t>(0x50000000, 1);
              break;
            case 4:
              mmu.read<uint32_t>(0x50000000);
              break;
            case 5:
              mmu.write<uint32_t>(0x51000000, 1);
              break;
            default:
              mmu.write<uint64_t>(at, n);
              break;
          }
          return ++n < 15000;
        }));
  }
  memory::Dma dma(machine.space);
  for (int i = 0; i < 1000; ++i) {
    dma.write_le<uint64_t>({0x10000 + uint64_t(i) % 4 * kPageSize}, 1);
    if (i % 10 == 0) machine.group.drop_write_access(nullptr);
    if (i % 30 == 0) machine.group.drop_translations();
  }
  for (auto& vcpu : vcpus) vcpu->join();
}

// Accessed and dirty bits are set by compare-exchange: an entry that another vCPU changes is never
// overwritten.
TEST(Vcpus, WalksDoNotUndoChangesOfPageTables) {
  Machine machine;
  Tables tables(machine);
  constexpr uint64_t kLinear = 0x10000;
  tables.map(kLinear, 0x5003);
  const uint64_t entry = tables.entry(kLinear);
  auto* raw = reinterpret_cast<uint64_t*>(machine.block->host() + entry);
  std::atomic<bool> stop{false};
  std::atomic<unsigned> walks{0};
  std::thread walker([&] {
    Vcpu own(machine);
    own.long_mode(tables.cr3());
    while (!stop.load()) {
      if (own.mmu.participant().pending()) own.mmu.serve_group();
      own.fault([&] { own.mmu.write<uint32_t>(kLinear, 1); });
      own.mmu.invlpg(kLinear);
      walks.fetch_add(1);
    }
  });
  // The bits beside accessed and dirty are ours: each exchange must find there what the last one left.
  unsigned lost = 0;
  uint64_t mine = 0x5003;
  for (uint64_t n = 1; n <= 20000 || walks.load() < 20000; ++n) {
    const uint64_t next = (n << 52 & 0x7ff0000000000000) | (n % 2 == 0 ? 0x5003 : 0x5002);
    const uint64_t old = __atomic_exchange_n(raw, next, __ATOMIC_SEQ_CST);
    lost += (old & ~uint64_t{0x60}) != mine;
    mine = next;
  }
  stop.store(true);
  walker.join();
  EXPECT_EQ(lost, 0u);
}

}  // namespace
}  // namespace ostler::mmu
