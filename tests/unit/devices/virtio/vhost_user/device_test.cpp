// A device whose back end is another process: requests go there and come back; the back end dies, lies and
// comes again. The device is vhost-user-fs.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "devices/virtio/fs/device.h"
#include "fake_driver.h"
#include "vhost_user/fake_back_end.h"

namespace ostler::virtio::fs {
namespace {

using enum vhost_user::Request;
using ostler::virtio::test::FakeQueue;
using ostler::virtio::test::GuestMemory;
using vhost_user::test::FakeBackEnd;
using vhost_user::test::Sin;

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned) override { ++queue_interrupts; }
  void interrupt_config() override { ++config_interrupts; }
  void needs_reset() override { ++resets_needed; }
  int queue_interrupts = 0, config_interrupts = 0, resets_needed = 0;
};

struct FuseIn {
  uint32_t length = 16, opcode = 3;
  uint64_t unique = 0;
};
struct FuseOut {
  uint32_t length;
  int32_t error;
  uint64_t unique;
};

class VhostUserFsTest : public testing::Test {
 protected:
  explicit VhostUserFsTest(memory::Backing backing = memory::Backing::kMemfd) : memory(backing) {
    options.tag = "shared";
  }
  void make() {
    auto made = FsDevice::create(memory.space, loop, options, {fake.path(), reconnect});
    ASSERT_TRUE(made) << made.error().message();
    device = *std::move(made);
    device->connect(transport);
  }
  void start(uint64_t features = feature(VIRTIO_F_VERSION_1)) {
    make();
    ASSERT_TRUE(device->activate(features, setups()));
  }
  std::vector<QueueSetup> setups() const { return {urgent.setup, requests.setup}; }
  // What is ready now on the loop.
  void pump() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }
  template <class Condition>
  void pump_until(Condition condition) {
    while (!condition()) pump();
  }
  void pass_a_second() {
    loop.skip_host_time(1'000'000'000);
    loop.run_due();
    end_meeting();
  }
  // A new back end serves the device, or the next is looked for.
  void end_meeting() {
    while (!device->connected() && !loop.host_timer_armed()) pump();
  }
  // A request with a unique number; returns where its answer will be.
  uint64_t ask(uint64_t unique, uint32_t room = 64) {
    auto chain = requests.chain().readable_object(FuseIn{.unique = unique});
    if (room != 0) chain.writable(room);
    chain.offer();
    device->notify(1);
    return room == 0 ? 0 : chain.address(1);
  }
  // The back end answers the next request with `text`.
  void answer(std::string_view text) {
    auto chain = fake.pop(1);
    ASSERT_TRUE(chain);
    ASSERT_FALSE(chain->writable.empty());
    std::memcpy(chain->writable[0].first, text.data(), text.size());
    fake.push(1, chain->head, static_cast<uint32_t>(text.size()));
    pump();
  }
  void expect_refused(uint64_t at, uint64_t unique) {
    const auto used = requests.used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->length, sizeof(FuseOut));
    const auto out = memory.get<FuseOut>(at);
    EXPECT_EQ(out.length, sizeof(FuseOut));
    EXPECT_EQ(out.error, -ENOTCONN);
    EXPECT_EQ(out.unique, unique);
  }

  GuestMemory memory;
  FakeQueue urgent{memory, 8}, requests{memory, 8};
  FakeBackEnd fake{{}};
  event::VirtualClock clock;  // paused
  event::Loop loop{clock};
  CountingTransport transport;
  Options options;
  unsigned reconnect = 0;
  std::unique_ptr<FsDevice> device;
};

TEST_F(VhostUserFsTest, configuration_tells_tag_and_queues) {
  make();
  std::array<std::byte, 44> config;
  device->read_config(0, config);
  EXPECT_STREQ(reinterpret_cast<const char*>(config.data()), "shared");
  EXPECT_EQ(static_cast<int>(config[36]), 1);
  EXPECT_EQ(device->queue_count(), 2u);
  EXPECT_EQ(device->queue_max_size(1), 128);
}

TEST_F(VhostUserFsTest, requests_are_answered) {
  start();
  const uint64_t at = ask(1);
  EXPECT_EQ(fake.kicks(1), 1u);
  EXPECT_FALSE(requests.used());
  answer("hello");
  const auto used = requests.used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 5u);
  EXPECT_EQ(memory.bytes(at, 5), "hello");
  EXPECT_EQ(transport.queue_interrupts, 1);
  EXPECT_EQ(transport.resets_needed, 0);
}

TEST_F(VhostUserFsTest, request_reaches_the_back_end_whole) {
  start(feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_INDIRECT_DESC));
  requests.chain().readable("0123456789abcdef").readable("more").writable(8).writable(24).offer_indirect();
  device->notify(1);
  const auto chain = fake.pop(1);
  ASSERT_TRUE(chain);
  EXPECT_EQ(chain->readable, "0123456789abcdefmore");
  ASSERT_EQ(chain->writable.size(), 2u);
  EXPECT_EQ(chain->writable[1].second, 24u);
}

TEST_F(VhostUserFsTest, rings_go_round) {
  start();
  const uint64_t mark = memory.allocate(0);
  for (unsigned i = 0; i < 3000; ++i) {
    memory.release(mark);
    ask(i, 16);
    answer("x");
    ASSERT_TRUE(requests.used()) << i;
  }
}

TEST_F(VhostUserFsTest, reset_takes_the_rings_back) {
  start();
  ask(1);
  device->reset();
  EXPECT_FALSE(fake.started(0));
  EXPECT_FALSE(fake.started(1));
  EXPECT_TRUE(device->connected());
  ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), setups()));
  EXPECT_TRUE(fake.started(1));
}

TEST_F(VhostUserFsTest, one_queue_is_reset_and_enabled) {
  start(feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_RING_RESET));
  ask(1);
  device->reset_queue(1);
  EXPECT_FALSE(fake.started(1));
  EXPECT_TRUE(fake.started(0));
  requests.restart();
  device->enable_queue(1, requests.setup);
  ask(2);
  answer("again");
  EXPECT_TRUE(requests.used());
}

TEST_F(VhostUserFsTest, back_end_without_enough_queues_is_refused) {
  options.num_request_queues = 20;
  const auto made = FsDevice::create(memory.space, loop, options, {fake.path(), 0});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("8 queues"), std::string::npos) << made.error().message();
}

TEST_F(VhostUserFsTest, options_are_checked) {
  options.tag = "";
  EXPECT_FALSE(FsDevice::create(memory.space, loop, options, {fake.path(), 0}));
  options.tag = std::string(37, 'x');
  EXPECT_FALSE(FsDevice::create(memory.space, loop, options, {fake.path(), 0}));
  options.tag = "x";
  options.queue_size = 100;
  EXPECT_FALSE(FsDevice::create(memory.space, loop, options, {fake.path(), 0}));
}

// --- a back end that goes -------------------------------------------------------------------------------

TEST_F(VhostUserFsTest, requests_of_a_dead_back_end_are_refused) {
  start();
  const uint64_t first = ask(7);
  fake.hang_up();
  pump_until([this] { return !device->connected(); });
  expect_refused(first, 7);
  expect_refused(ask(8), 8);
  EXPECT_EQ(transport.resets_needed, 0);
  EXPECT_EQ(device->failures(), 0u);
}

TEST_F(VhostUserFsTest, request_that_wants_no_answer_is_used_without_one) {
  start();
  fake.hang_up();
  pump_until([this] { return !device->connected(); });
  ask(9, 0);
  const auto used = requests.used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 0u);
}

TEST_F(VhostUserFsTest, what_was_answered_before_the_end_counts) {
  start();
  const uint64_t at = ask(1);
  auto chain = fake.pop(1);
  std::memcpy(chain->writable[0].first, "last", 4);
  fake.push(1, chain->head, 4);
  fake.hang_up();
  pump_until([this] { return !device->connected(); });
  EXPECT_EQ(requests.used()->length, 4u);
  EXPECT_EQ(memory.bytes(at, 4), "last");
}

TEST_F(VhostUserFsTest, new_back_end_serves_the_running_device) {
  reconnect = 1;
  start();
  const uint64_t at = ask(1);
  fake.hang_up();
  pump_until([this] { return loop.host_timer_armed(); });
  expect_refused(at, 1);
  pass_a_second();
  EXPECT_TRUE(device->connected());
  ask(2);
  answer("from the next");
  EXPECT_EQ(requests.used()->length, 13u);
}

TEST_F(VhostUserFsTest, back_end_that_is_not_there_is_looked_for_again) {
  reconnect = 1;
  start();
  fake.stop_listening();
  fake.hang_up();
  pump_until([this] { return loop.host_timer_armed(); });
  pass_a_second();
  EXPECT_FALSE(device->connected());
  EXPECT_TRUE(loop.host_timer_armed());
}

TEST_F(VhostUserFsTest, new_back_end_with_fewer_queues_is_sent_away) {
  reconnect = 1;
  start();
  fake.set({.queues = 1});
  fake.hang_up();
  pump_until([this] { return loop.host_timer_armed(); });
  pass_a_second();
  EXPECT_FALSE(device->connected());
  fake.set({});
  pass_a_second();
  EXPECT_TRUE(device->connected());
}

// A back end that comes and says nothing, or not all: the loop goes on meanwhile.
class SilentBackEnd : public VhostUserFsTest, public testing::WithParamInterface<vhost_user::Request> {
 protected:
  SilentBackEnd() {
    reconnect = 1;
    start();
    FakeBackEnd::Options silent;
    silent.sinful = GetParam();
    silent.sin = Sin::kSilence;
    fake.set(silent);
    fake.hang_up();
    pump_until([this] { return loop.host_timer_armed(); });
    loop.skip_host_time(1'000'000'000);
    loop.run_due();
    fake.await(GetParam(), 2);
  }
  // The loop has not waited for it: it neither came nor was given up.
  void expect_waiting() {
    pump();
    EXPECT_FALSE(device->connected());
    EXPECT_FALSE(loop.host_timer_armed());
  }
};

TEST_P(SilentBackEnd, keeps_neither_the_loop_nor_the_guest) {
  expect_waiting();
  expect_refused(ask(1), 1);
  device->reset();
  expect_waiting();
}

TEST_P(SilentBackEnd, may_leave_and_the_next_come) {
  expect_waiting();
  fake.set({});
  fake.hang_up();
  end_meeting();
  EXPECT_FALSE(device->connected());
  pass_a_second();
  EXPECT_TRUE(device->connected());
  ask(1);
  answer("hello");
  EXPECT_TRUE(requests.used());
}

TEST_P(SilentBackEnd, does_not_keep_the_device) {
  expect_waiting();
  device.reset();
  pump();
  EXPECT_FALSE(loop.host_timer_armed());
}

INSTANTIATE_TEST_SUITE_P(At, SilentBackEnd,
                         testing::Values(vhost_user::Request::VHOST_USER_GET_FEATURES,
                                         vhost_user::Request::VHOST_USER_SET_OWNER));

TEST_F(VhostUserFsTest, reset_without_a_back_end) {
  reconnect = 1;
  start();
  fake.hang_up();
  pump_until([this] { return loop.host_timer_armed(); });
  device->reset();
  pass_a_second();
  EXPECT_TRUE(device->connected());
  EXPECT_FALSE(fake.started(1)) << "the driver has not asked for it";
  requests.restart();
  ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), setups()));
  ask(1);
  answer("ready");
  EXPECT_TRUE(requests.used());
}

// --- a back end that lies -------------------------------------------------------------------------------

class LyingBackEnd : public VhostUserFsTest {
 protected:
  void expect_lost(uint64_t at) {
    pump_until([this] { return !device->connected(); });
    expect_refused(at, 1);
    EXPECT_EQ(transport.resets_needed, 0);
  }
};

TEST_F(LyingBackEnd, used_index_ahead) {
  start();
  const uint64_t at = ask(1);
  fake.claim_used(1, 9);
  fake.call(1);
  expect_lost(at);
}

TEST_F(LyingBackEnd, unknown_buffer) {
  start();
  const uint64_t at = ask(1);
  fake.push(1, 1000, 0);
  expect_lost(at);
}

TEST_F(LyingBackEnd, more_bytes_than_room) {
  start();
  ask(1);
  fake.push(1, fake.pop(1)->head, 0xffffffff);
  pump();
  EXPECT_EQ(requests.used()->length, 64u);
}

TEST_F(LyingBackEnd, calls_for_nothing) {
  start();
  for (int i = 0; i < 100; ++i) {
    fake.call(0);
    fake.call(1);
    pump();
  }
  EXPECT_EQ(transport.queue_interrupts, 0);
  device->reset();
  EXPECT_TRUE(device->connected());
}

class StepOfSetup : public VhostUserFsTest, public testing::WithParamInterface<vhost_user::Request> {};

TEST_P(StepOfSetup, end_of_the_connection_costs_the_requests_alone) {
  make();
  fake.set({.sinful = GetParam(), .sin = Sin::kClose});
  ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), setups()));
  EXPECT_FALSE(device->connected());
  expect_refused(ask(1), 1);
}

TEST_P(StepOfSetup, refusal_costs_the_requests_alone) {
  make();
  fake.set({.sinful = GetParam(), .sin = Sin::kRefuse});
  ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), setups()));
  EXPECT_FALSE(device->connected());
  expect_refused(ask(1), 1);
}

INSTANTIATE_TEST_SUITE_P(Each, StepOfSetup,
                         testing::Values(VHOST_USER_SET_FEATURES, VHOST_USER_SET_MEM_TABLE,
                                         VHOST_USER_SET_VRING_NUM, VHOST_USER_SET_VRING_BASE,
                                         VHOST_USER_SET_VRING_ADDR, VHOST_USER_SET_VRING_CALL,
                                         VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_ENABLE),
                         [](const auto& each) {
                           return "request_" + std::to_string(static_cast<uint32_t>(each.param));
                         });

TEST_F(LyingBackEnd, end_while_rings_are_stopped) {
  start();
  ask(1);
  fake.set({.sinful = VHOST_USER_GET_VRING_BASE, .sin = Sin::kClose});
  device->reset();
  EXPECT_FALSE(device->connected());
  ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), setups()));
}

// --- memory ---------------------------------------------------------------------------------------------

TEST_F(VhostUserFsTest, new_memory_is_told_before_it_is_used) {
  start();
  EXPECT_EQ(fake.regions(), 2u) << "the guest's and the rings'";
  const auto more = *memory::RamBlock::create(
      {.name = "more", .size = 1 << 20, .backing = memory::Backing::kMemfd, .share = true});
  memory::RamRegion region("more", more);
  {
    memory::Transaction change(memory.space);
    change.add(memory.space.root(), uint64_t{4} << 20, region);
  }
  requests.chain().readable("0123456789abcdef").raw({uint64_t{4} << 20, 64, test::kWrite, 0}).offer();
  device->notify(1);
  EXPECT_EQ(fake.regions(), 3u);
  answer("far");
  EXPECT_EQ(std::memcmp(more->host(), "far", 3), 0);
  device->reset();
  memory::Transaction change(memory.space);
  change.remove(region);
}

TEST_F(VhostUserFsTest, private_memory_is_not_given_away) {
  start();
  const auto own = *memory::RamBlock::create({.name = "own", .size = 1 << 20});
  memory::RamRegion region("own", own);
  {
    memory::Transaction change(memory.space);
    change.add(memory.space.root(), uint64_t{4} << 20, region);
  }
  requests.chain().readable("0123456789abcdef").raw({uint64_t{4} << 20, 64, test::kWrite, 0}).offer();
  device->notify(1);
  EXPECT_EQ(fake.regions(), 2u);
  EXPECT_EQ(transport.resets_needed, 1);
  device->reset();
  memory::Transaction change(memory.space);
  change.remove(region);
}

TEST_F(VhostUserFsTest, writes_of_the_back_end_reach_the_dirty_log) {
  start();
  const uint64_t at = ask(1);
  memory.ram().start_dirty_log();
  std::vector<uint64_t> bitmap(memory.ram().size() / kPageSize / 64);
  answer("x");
  memory.ram().collect_dirty(bitmap);
  EXPECT_NE(bitmap[at / kPageSize / 64] >> (at / kPageSize % 64) & 1, 0u);
}

TEST(MemoryTable, pieces_of_one_block_are_one_entry) {
  const auto ram = *memory::RamBlock::create(
      {.name = "ram", .size = 1 << 20, .backing = memory::Backing::kMemfd, .share = true});
  const auto own = *memory::RamBlock::create({.name = "own", .size = 1 << 20});
  std::vector<memory::FlatRange> ranges;
  const auto add = [&](uint64_t first, uint64_t last, const auto& block, uint64_t offset, bool read_only) {
    memory::FlatRange& range = ranges.emplace_back();
    range.first = GuestPhys{first};
    range.last = GuestPhys{last};
    range.ram = block;
    range.offset = offset;
    range.read_only = read_only;
  };
  const std::shared_ptr<memory::RamBlock> none;
  add(0, 0x9ffff, ram, 0, false);
  add(0xa0000, 0xbffff, none, 0, false);
  add(0xc0000, 0xcffff, ram, 0xc0000, true);
  add(0xd0000, 0xfffff, ram, 0xd0000, false);
  add(0x100000, 0x1fffff, own, 0, false);
  add(0x200000, 0x20ffff, ram, 0, false);
  const vhost_user::MemoryTable table{memory::FlatView(std::move(ranges)),
                                      vhost_user::MemoryTable::Whose::kShared};
  ASSERT_EQ(table.entries().size(), 2u);
  EXPECT_EQ(table.entries()[0].region.size, 0x100000u);
  EXPECT_TRUE(table.covers(GuestPhys{0xffffe}, 2));
  EXPECT_FALSE(table.covers(GuestPhys{0xfffff}, 2));
  EXPECT_FALSE(table.covers(GuestPhys{0x1fffff}, 2));
  EXPECT_TRUE(table.covers(GuestPhys{0x200000}, 0x10000));
  EXPECT_FALSE(table.covers(GuestPhys{0x300000}, 1));
}

}  // namespace
}  // namespace ostler::virtio::fs
