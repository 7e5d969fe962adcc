// Readers on several threads while another one rebuilds the map. Meant to be run under ThreadSanitizer as
// well.
#include <atomic>
#include <thread>

#include "fixtures.h"
#include "memory/dma.h"

namespace ostler::memory {
namespace {

class ConstantHandler : public bus::IoHandler {
 public:
  explicit ConstantHandler(uint64_t value) : value_(value) {}
  std::string_view name() const override { return "constant"; }
  uint64_t io_read(uint64_t, unsigned) override { return value_; }
  void io_write(uint64_t, unsigned, uint64_t) override {}

 private:
  const uint64_t value_;
};

TEST(ReadersTest, SeeEitherTheOldMapOrTheNewOneNeverAMixture) {
  AddressSpace space("memory", AddressSpace::kMemorySize);
  ConstantHandler one(1), two(2);
  IoRegion a("a", one, 0x1000), b("b", two, 0x1000);
  {
    Transaction change(space);
    change.add(space.root(), 0x1000, a);
    change.add(space.root(), 0x2000, b);
  }
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      AddressSpace::Reader reader(space);
      while (!stop.load(std::memory_order_relaxed)) {
        // The two swap places in one commit: in one view there is always one of each.
        const FlatView& view = reader.view();
        const auto low = view.find({0x1000})->handler, high = view.find({0x2000})->handler;
        if (low == high) wrong.fetch_add(1);
        const uint64_t value = reader.read({0x1000}, 4);
        if (value != 1 && value != 2) wrong.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < 2000; ++i) {
    Transaction change(space);
    change.move(a, i % 2 == 0 ? 0x2000 : 0x1000);
    change.move(b, i % 2 == 0 ? 0x1000 : 0x2000);
  }
  stop.store(true);
  for (auto& thread : readers) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
}

// A guest that remaps a BAR for ever must not make us keep old views.
TEST(ReadersTest, OldViewsAreFreed) {
  AddressSpace space("memory", AddressSpace::kMemorySize);
  ConstantHandler handler(1);
  IoRegion bar("bar", handler, 0x1000);
  Transaction(space).add(space.root(), 0, bar);
  AddressSpace::Reader idle(space), busy(space);
  idle.view();
  std::vector<std::weak_ptr<const FlatView>> views;
  for (uint64_t i = 1; i <= 100; ++i) {
    { Transaction(space).move(bar, i << 12); }
    views.push_back(space.view());
    EXPECT_EQ(busy.read({i << 12}, 1), 1u);
  }
  unsigned alive = 0;
  for (const auto& view : views) alive += !view.expired();
  EXPECT_EQ(alive, 1u);
}

TEST(ReadersTest, DmaFromManyThreadsDuringCommits) {
  AddressSpace space("memory", AddressSpace::kMemorySize);
  RamRegion ram("ram", ram_of(0x10000));
  ConstantHandler handler(1);
  IoRegion bar("bar", handler, 0x1000);
  {
    Transaction change(space);
    change.add(space.root(), 0, ram);
    change.add(space.root(), 0x20000, bar);
  }
  std::vector<std::thread> writers;
  std::atomic<unsigned> failed{0};
  for (uint64_t i = 0; i < 3; ++i) {
    writers.emplace_back([&, i] {
      Dma dma(space);
      for (uint32_t n = 1; n <= 3000; ++n) {
        const GuestPhys at{0x1000 * (i + 1)};
        if (!dma.write_le<uint32_t>(at, n) || dma.read_le<uint32_t>(at) != n) failed.fetch_add(1);
      }
    });
  }
  for (uint64_t i = 0; i < 500; ++i) Transaction(space).move(bar, 0x20000 + (i << 12));
  for (auto& thread : writers) thread.join();
  EXPECT_EQ(failed.load(), 0u);
}

}  // namespace
}  // namespace ostler::memory
