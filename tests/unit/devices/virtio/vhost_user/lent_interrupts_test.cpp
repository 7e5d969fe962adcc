// Interrupts of a disk of another process that the host's kernel sends by the back end's calls: the guest's
// used ring is lent then. The kernel is scripted; the host's own is in tests/unit/accel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "vhost_user/plugged_disk.h"

namespace ostler::virtio::vhost_user {
namespace {

using test::FakeBackEnd;
using test::PluggedDisk;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Messages = std::vector<uint32_t>;  // their data

struct Sink final : bus::MsiSink {
  void send_msi(GuestPhys, uint32_t data) override { messages.push_back(data); }
  Messages messages;
};

// The host's kernel: sends what is signalled when it is asked to.
class Kernel final : public bus::MessageFds {
 public:
  class Source final : public bus::MessageFd {
   public:
    Source(Kernel& owner, int number) : owner_(owner), fd(number) { owner_.sources_.push_back(this); }
    ~Source() override { std::erase(owner_.sources_, this); }
    void send(GuestPhys, uint32_t message) override { data = message; }
    void hold() override { data.reset(); }

   private:
    Kernel& owner_;

   public:
    const int fd;
    std::optional<uint32_t> data;
  };
  std::unique_ptr<bus::MessageFd> take(int fd) override {
    if (sources_.size() == room) return nullptr;
    return std::make_unique<Source>(*this, fd);
  }
  void send(std::span<const Sending> each) override {
    ++tables;
    for (const Sending& one : each) one.source->send(one.address, one.data);
  }
  size_t count() const { return sources_.size(); }
  // What it sends of what was signalled.
  Messages sent() {
    Messages messages;
    for (const Source* source : sources_) {
      uint64_t signals = 0;
      if (source->data && ::read(source->fd, &signals, sizeof signals) == sizeof signals)
        messages.push_back(*source->data);
    }
    return messages;
  }
  size_t room = 16;
  unsigned tables = 0;

 private:
  std::vector<Source*> sources_;
};

class LentInterrupts : public ::testing::Test {
 protected:
  void expect_used(uint16_t queue = 0) { EXPECT_TRUE(disk.queues[queue].used()); }
  // A request comes back, and the kernel or we interrupt.
  void round(uint64_t sector) {
    disk.ask(sector);
    ASSERT_NO_FATAL_FAILURE(disk.answer());
    disk.pump();
    expect_used();
  }
  void die() {
    disk.fake.hang_up();
    while (disk.device->connected() || !disk.loop.host_timer_armed()) disk.pump();
  }
  void come_again() {
    disk.loop.skip_host_time(1'000'000'000);
    disk.loop.run_due();
    while (!disk.device->connected() && !disk.loop.host_timer_armed()) disk.pump();
    disk.pump();
  }
  bool failed() { return (disk.status() & 0x40) != 0; }

  Kernel kernel;
  Sink sink;
  PluggedDisk disk{sink, &kernel};
};

TEST_F(LentInterrupts, the_driver_is_told_without_us) {
  disk.start();
  disk.ask(7);
  const auto asked = disk.asked();
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->sector, 7u);
  disk.fake.push(0, asked->head, 513);
  const auto used = disk.queues[0].used();
  ASSERT_TRUE(used) << "the loop has not run";
  EXPECT_EQ(used->id, asked->head);
  EXPECT_EQ(used->length, 513u);
  disk.pump();
  EXPECT_THAT(sink.messages, IsEmpty());
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40)) << "the loop does not listen";
  EXPECT_NE(disk.fake.set_features() & feature(VIRTIO_F_INDIRECT_DESC), 0u);
}

TEST_F(LentInterrupts, rings_go_round) {
  disk.start();
  const uint64_t mark = disk.memory.allocate(0);
  for (unsigned i = 0; i < 70000; ++i) {
    disk.memory.release(mark);
    disk.ask(i);
    const auto asked = disk.asked();
    ASSERT_TRUE(asked && asked->sector == i) << i;
    disk.fake.push(0, asked->head, 513);
    ASSERT_TRUE(disk.queues[0].used()) << i;
  }
  EXPECT_FALSE(failed());
  EXPECT_TRUE(disk.device->connected());
}

TEST_F(LentInterrupts, chains_come_back_in_any_order) {
  disk.start();
  for (uint64_t i = 0; i < 4; ++i) disk.ask(i);
  std::vector<PluggedDisk::Asked> asked;
  for (auto next = disk.asked(); next; next = disk.asked()) asked.push_back(*next);
  ASSERT_EQ(asked.size(), 4u);
  for (const size_t i : {2u, 0u, 3u, 1u}) {
    disk.fake.push(0, asked[i].head, 513);
    EXPECT_EQ(disk.queues[0].used()->id, asked[i].head);
    round(9);
  }
}

TEST_F(LentInterrupts, a_masked_vector_is_pending_and_comes_later) {
  disk.start();
  disk.mask(1, true);
  disk.ask();
  disk.answer();
  EXPECT_THAT(kernel.sent(), IsEmpty());
  EXPECT_EQ(disk.pending(), 2u);
  disk.mask(1, false);
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40));
  EXPECT_EQ(disk.pending(), 0u);
  disk.set_msix(true, true);
  disk.ask();
  disk.answer();
  EXPECT_THAT(kernel.sent(), IsEmpty());
  disk.set_msix(true);
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40));
}

TEST_F(LentInterrupts, a_vector_may_change_its_message_and_the_queue_its_vector) {
  disk.start();
  disk.program(1, 0xfee01000, 0x55);
  disk.ask();
  disk.answer();
  EXPECT_THAT(kernel.sent(), ElementsAre(0x55));
  disk.program(0, 0xfee00000, 0x66);
  disk.set_vector(0, 0);
  disk.ask();
  disk.answer();
  EXPECT_THAT(kernel.sent(), ElementsAre(0x66));
  disk.set_vector(0, PluggedDisk::kNone);
  disk.ask();
  disk.answer();
  disk.pump();
  EXPECT_THAT(kernel.sent(), IsEmpty());
  EXPECT_THAT(sink.messages, IsEmpty());
}

TEST_F(LentInterrupts, with_msix_off_the_pin_rises_by_us) {
  disk.start();
  disk.ask();
  disk.set_msix(false);
  disk.answer();  // before we have noticed
  disk.pump();
  disk.pump();
  EXPECT_EQ(kernel.count(), 0u);
  EXPECT_NE(disk.pins.levels, 0u);
  EXPECT_EQ(disk.isr(), 1);
  EXPECT_EQ(disk.pins.levels, 0u);
  expect_used();
  disk.queues[0].set_used_event(1);
  round(2);
  EXPECT_EQ(disk.isr(), 1);
  disk.set_msix(true);
  disk.pump();
  disk.ask();
  disk.answer();
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40));
}

TEST_F(LentInterrupts, nothing_is_lent_unless_the_user_wants_it) {
  disk.lends = false;
  disk.start();
  EXPECT_EQ(kernel.count(), 0u);
  round(1);
  EXPECT_THAT(sink.messages, ElementsAre(0x40u));
}

TEST_F(LentInterrupts, without_a_vector_or_msix_nothing_is_lent) {
  ASSERT_NO_FATAL_FAILURE(disk.plug());
  disk.drive(PluggedDisk::kFeatures, false);
  disk.ask();
  disk.answer();
  EXPECT_FALSE(disk.queues[0].used()) << "we copy it";
  disk.pump();
  expect_used();
  EXPECT_EQ(disk.isr(), 1);
}

TEST_F(LentInterrupts, a_queue_without_a_vector_is_not_lent) {
  ASSERT_NO_FATAL_FAILURE(disk.plug());
  disk.set_msix(true);
  disk.drive(PluggedDisk::kFeatures, false);
  EXPECT_EQ(kernel.count(), 0u);
  disk.ask();
  disk.answer();
  EXPECT_FALSE(disk.queues[0].used());
}

TEST_F(LentInterrupts, a_legacy_driver_keeps_its_ring) {
  ASSERT_NO_FATAL_FAILURE(disk.plug());
  disk.device->set_legacy_driver();
  disk.drive();
  disk.ask();
  disk.answer();
  EXPECT_FALSE(disk.queues[0].used());
}

TEST_F(LentInterrupts, a_driver_without_event_index_keeps_its_ring) {
  for (const uint64_t without : {feature(VIRTIO_F_EVENT_IDX), uint64_t{0}}) {
    disk.start((PluggedDisk::kFeatures & ~without) | (without == 0 ? feature(VIRTIO_F_IN_ORDER) : 0));
    disk.ask();
    disk.answer();
    EXPECT_FALSE(disk.queues[0].used());
    disk.pump();
    expect_used();
    EXPECT_THAT(std::exchange(sink.messages, {}), ElementsAre(0x40));
    EXPECT_EQ(kernel.count(), 0u);
    disk.unplug();
    disk.queues[0].restart();
  }
}

TEST_F(LentInterrupts, a_back_end_without_indirect_tables_gets_no_used_ring) {
  auto options = PluggedDisk::back_end_options();
  options.features &= ~feature(VIRTIO_F_INDIRECT_DESC);
  disk.fake.set(options);
  disk.start();
  EXPECT_EQ(kernel.count(), 0u);
  disk.ask();
  disk.answer();
  EXPECT_FALSE(disk.queues[0].used());
}

TEST_F(LentInterrupts, without_room_in_the_kernel_we_interrupt) {
  kernel.room = 0;
  disk.start();
  disk.ask();
  disk.answer();
  expect_used();
  disk.pump();
  EXPECT_THAT(sink.messages, ElementsAre(0x40));
  disk.queues[0].set_used_event(5);
  round(1);
  EXPECT_EQ(sink.messages.size(), 1u) << "the driver wants to hear later";
}

TEST_F(LentInterrupts, after_a_reset_nothing_comes) {
  disk.start();
  disk.ask();
  const auto asked = disk.asked();
  disk.mask(1, true);
  disk.fake.push(0, asked->head, 513);
  disk.set(0x14, 1, 0);
  EXPECT_EQ(kernel.count(), 0u);
  disk.mask(1, false);
  EXPECT_THAT(sink.messages, IsEmpty());
  EXPECT_EQ(disk.pending(), 0u);
  disk.queues[0].restart();
  disk.drive();
  EXPECT_THAT(kernel.sent(), IsEmpty()) << "nor does it for the next driver";
  disk.ask(3);
  disk.answer();
  expect_used();
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40));
}

TEST_F(LentInterrupts, one_queue_is_reset_and_enabled) {
  disk.start();
  disk.ask();
  disk.set(0x16, 2, 0);
  disk.set(0x3a, 2, 1);
  EXPECT_EQ(kernel.count(), 0u);
  disk.queues[0].restart();
  disk.set_up(0);
  disk.ask(4);
  disk.pump();
  disk.answer();
  expect_used();
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40));
}

TEST_F(LentInterrupts, unplugging_frees_the_kernels_room) {
  kernel.room = 1;
  for (int i = 0; i < 3; ++i) {
    disk.start();
    EXPECT_EQ(kernel.count(), 1u);
    disk.ask();
    disk.unplug();
    EXPECT_EQ(kernel.count(), 0u);
    disk.pump();
    disk.queues[0].restart();
  }
}

TEST_F(LentInterrupts, several_queues_are_told_to_the_kernel_at_once) {
  PluggedDisk four(sink, &kernel, 4);
  four.start();
  EXPECT_EQ(kernel.count(), 4u);
  EXPECT_EQ(kernel.tables, 1u);
  for (uint16_t i = 0; i < 4; ++i) {
    four.ask(i, i);
    four.answer(i);
    EXPECT_THAT(kernel.sent(), ElementsAre(0x40u + i));
  }
}

// ---- back ends that go ----
TEST_F(LentInterrupts, what_a_dead_back_end_has_used_is_not_asked_for_again) {
  disk.reconnect = 1;
  disk.start();
  for (uint64_t i = 0; i < 3; ++i) disk.ask(i);
  disk.asked();
  const auto second = disk.asked();
  disk.fake.push(0, second->head, 513);
  ASSERT_NO_FATAL_FAILURE(die());
  EXPECT_EQ(kernel.count(), 0u);
  expect_used();
  come_again();
  EXPECT_EQ(kernel.count(), 1u);
  for (const uint64_t sector : {0u, 2u}) {
    const auto next = disk.asked();
    ASSERT_TRUE(next);
    EXPECT_EQ(next->sector, sector);
    disk.fake.push(0, next->head, 513);
    EXPECT_EQ(disk.queues[0].used()->id, next->head);
  }
  EXPECT_FALSE(disk.asked());
  EXPECT_EQ(kernel.sent().size(), 1u);
}

TEST_F(LentInterrupts, a_call_that_a_dead_back_end_has_left_is_heard) {
  disk.reconnect = 1;
  disk.start();
  disk.mask(1, true);
  disk.ask();
  disk.answer();
  ASSERT_NO_FATAL_FAILURE(die());
  EXPECT_EQ(disk.pending(), 2u);
  disk.mask(1, false);
  EXPECT_THAT(sink.messages, ElementsAre(0x40));
}

TEST_F(LentInterrupts, a_used_index_ahead_costs_the_connection) {
  disk.reconnect = 1;
  disk.start();
  disk.ask(1);
  disk.fake.claim_used(0, 7);
  disk.ask(2);
  EXPECT_FALSE(disk.device->connected());
  EXPECT_FALSE(failed());
  disk.pump();
  come_again();
  for (const uint64_t sector : {1u, 2u}) {
    const auto next = disk.asked();
    ASSERT_TRUE(next);
    EXPECT_EQ(next->sector, sector);
  }
}

TEST_F(LentInterrupts, an_unknown_buffer_costs_the_connection) {
  disk.start();
  disk.ask(1);
  disk.fake.push(0, 5, 0);
  disk.ask(2);
  EXPECT_FALSE(disk.device->connected());
  EXPECT_FALSE(failed());
}

TEST_F(LentInterrupts, stale_flags_stop_no_kick) {
  disk.reconnect = 1;
  disk.start();
  disk.memory.put<uint16_t>(disk.queues[0].setup.device, 1);  // a back end that looks by itself
  ASSERT_NO_FATAL_FAILURE(die());
  come_again();
  disk.fake.kicks(0);
  disk.ask();
  EXPECT_EQ(disk.fake.kicks(0), 1u);
}

// ---- drivers that break the rules ----
TEST_F(LentInterrupts, a_chain_in_use_may_not_be_made_available) {
  disk.start();
  disk.ask();
  disk.queues[0].make_available(0);
  disk.set(0x3000, 2, 0);
  EXPECT_TRUE(failed());
}

TEST_F(LentInterrupts, a_used_ring_may_not_move) {
  disk.start();
  const auto other = *memory::RamBlock::create(
      {.name = "other", .size = 4096, .backing = memory::Backing::kMemfd, .share = true});
  memory::RamRegion region("other", other);
  {
    memory::Transaction change(disk.memory.space);
    change.add(disk.memory.space.root(), align_down(disk.queues[0].setup.device, 4096), region, 1);
  }
  disk.ask();
  EXPECT_TRUE(failed());
  disk.unplug();
  memory::Transaction change(disk.memory.space);
  change.remove(region);
}

TEST_F(LentInterrupts, memory_that_comes_leaves_the_ring_where_it_is) {
  disk.start();
  const auto other = *memory::RamBlock::create(
      {.name = "other", .size = 4096, .backing = memory::Backing::kMemfd, .share = true});
  memory::RamRegion region("other", other);
  {
    memory::Transaction change(disk.memory.space);
    change.add(disk.memory.space.root(), uint64_t{4} << 20, region);
  }
  const size_t before = disk.fake.regions();
  disk.ask();
  EXPECT_EQ(disk.fake.regions(), before + 1);
  disk.answer();
  expect_used();
  EXPECT_THAT(kernel.sent(), ElementsAre(0x40));
  disk.unplug();
  memory::Transaction change(disk.memory.space);
  change.remove(region);
}

// Another vCPU that runs whenever the device has taken a chain: it uses the one before, as if it were the
// back end, and makes the next available.
class SecondVcpu final : public memory::CodeListener {
 public:
  SecondVcpu(PluggedDisk& disk, unsigned most) : disk_(disk), queue_(disk.queues[0]), most_(most) {
    offer();
    disk.memory.space.set_code_listener(this);
    disk.memory.ram().flags(queue_.setup.device).fetch_or(memory::page_flag::kCode);
  }
  ~SecondVcpu() override { disk_.memory.space.set_code_listener(nullptr); }
  void code_written(memory::RamBlock&, uint64_t offset, uint64_t) override {
    if (offset != queue_.setup.device + 4 + 8u * queue_.setup.size) return;  // where the index is told
    if (taken != 0) use(static_cast<uint16_t>(taken - 1));
    if (++taken < most_) offer();
  }
  unsigned taken = 0;

 private:
  void offer() {
    disk_.memory.release(room_);
    queue_.chain().readable_object(PluggedDisk::Request{}).writable(512).writable(1).offer_indirect();
  }
  void use(uint16_t index) {
    const auto slot = static_cast<uint16_t>(index % queue_.setup.size);
    disk_.memory.put(queue_.setup.device + 4 + 8u * slot, ostler::virtio::test::Used{slot, 0});
    disk_.memory.put<uint16_t>(queue_.setup.device + 2, static_cast<uint16_t>(index + 1));
  }
  PluggedDisk& disk_;
  ostler::virtio::test::FakeQueue& queue_;
  const unsigned most_;
  const uint64_t room_ = disk_.memory.allocate(0, kPageSize);
};

TEST_F(LentInterrupts, a_driver_that_uses_its_own_chains_gets_its_share) {
  disk.start();
  SecondVcpu other(disk, 100);
  disk.set(0x3000, 2, 0);
  for (unsigned shares = 1; shares <= 6; ++shares) {
    EXPECT_EQ(other.taken, 16 * shares);
    disk.pump();
  }
  EXPECT_EQ(other.taken, 100u) << "without another notification";
  EXPECT_TRUE(disk.device->connected());
  EXPECT_FALSE(failed());
}

// ---- room for tables ----
TEST_F(LentInterrupts, chains_wait_for_room_and_we_hear_the_calls_meanwhile) {
  disk.start();
  constexpr unsigned kParts = 1000;
  static_assert(4 * kParts <= ShadowRing::kTablePlaces && 5 * kParts > ShadowRing::kTablePlaces);
  const uint64_t room = disk.memory.allocate(8);
  const auto offer = [&](uint64_t sector) {
    auto chain = disk.queues[0].chain().readable_object(PluggedDisk::Request{.sector = sector});
    for (unsigned i = 1; i < kParts; ++i) chain.raw({room, 8, ostler::virtio::test::kWrite, 0});
    chain.offer_indirect();
    disk.set(0x3000, 2, 0);
  };
  for (uint64_t i = 0; i < 6; ++i) offer(i);
  std::vector<PluggedDisk::Asked> asked;
  for (auto next = disk.asked(); next; next = disk.asked()) asked.push_back(*next);
  ASSERT_EQ(asked.size(), 4u);
  disk.pump();
  EXPECT_EQ(kernel.count(), 0u);
  disk.fake.push(0, asked[1].head, 0);
  disk.pump();
  EXPECT_EQ(sink.messages.size(), 1u);
  const auto fifth = disk.asked();
  ASSERT_TRUE(fifth);
  EXPECT_EQ(fifth->sector, 4u);
  disk.fake.push(0, asked[0].head, 0);
  disk.pump();
  EXPECT_TRUE(disk.asked());
  disk.pump();
  EXPECT_EQ(kernel.count(), 1u) << "nothing waits any more";
}

// ---- saving ----
TEST_F(LentInterrupts, what_is_in_flight_is_saved_and_goes_on_elsewhere) {
  disk.start();
  for (uint64_t i = 0; i < 3; ++i) disk.ask(i);
  disk.asked();
  const auto second = disk.asked();
  disk.mask(1, true);
  disk.fake.push(0, second->head, 513);
  disk.function->quiesce();
  state::Saver saver;
  disk.function->state(saver);
  const auto bytes = saver.take();
  EXPECT_EQ(disk.pending(), 2u);
  const auto expect_the_rest = [this] {
    for (const uint64_t sector : {0u, 2u}) {
      const auto next = disk.asked();
      ASSERT_TRUE(next);
      EXPECT_EQ(next->sector, sector);
    }
  };
  disk.pump();
  disk.pump();
  expect_the_rest();
  EXPECT_EQ(kernel.count(), 1u) << "it goes on here";
  disk.unplug();
  disk.pump();
  ASSERT_NO_FATAL_FAILURE(disk.plug());
  state::Loader loader(bytes);
  disk.function->state(loader);
  ASSERT_TRUE(loader.finish()) << loader.error();
  disk.pump();
  EXPECT_EQ(kernel.count(), 1u);
  expect_the_rest();
  EXPECT_EQ(disk.pending(), 2u);
  disk.mask(1, false);
  EXPECT_THAT(sink.messages, ElementsAre(0x40));
}

TEST_F(LentInterrupts, what_the_back_end_wrote_is_dirty_when_it_is_quiet) {
  disk.start();
  disk.memory.allocate(0, kPageSize);
  disk.ask();
  const uint64_t end = disk.memory.allocate(0);
  disk.memory.ram().start_dirty_log();
  std::vector<uint64_t> bitmap(disk.memory.ram().size() / kPageSize / 64);
  disk.answer();
  disk.function->quiesce();
  disk.memory.ram().collect_dirty(bitmap);
  const auto dirty = [&](uint64_t at) {
    return (bitmap[at / kPageSize / 64] >> (at / kPageSize % 64) & 1) != 0;
  };
  EXPECT_TRUE(dirty(end - 1)) << "the request";
  EXPECT_TRUE(dirty(disk.queues[0].setup.device)) << "the used ring";
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
