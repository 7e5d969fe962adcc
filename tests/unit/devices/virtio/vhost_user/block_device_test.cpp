// A disk whose process is another one: what is passed on of it, and its requests when it dies.
#include "devices/virtio/vhost_user/block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "devices/virtio/block/request.h"
#include "fake_driver.h"
#include "vhost_user/fake_back_end.h"

namespace ostler::virtio::vhost_user {
namespace {

using ostler::virtio::test::FakeQueue;
using ostler::virtio::test::GuestMemory;
using test::FakeBackEnd;

constexpr uint64_t kFlush = feature(block::VIRTIO_BLK_F_FLUSH),
                   kWce = feature(block::VIRTIO_BLK_F_CONFIG_WCE);
constexpr uint64_t kBase = feature(VIRTIO_F_VERSION_1);

struct Request {
  uint32_t type = 0, reserved = 0;
  uint64_t sector = 0;
};

struct Interrupts final : Transport {
  void interrupt_queue(unsigned) override {}
  void interrupt_config() override { ++config; }
  void needs_reset() override {}
  unsigned config = 0;
};

class VhostUserBlockTest : public testing::Test {
 protected:
  VhostUserBlockTest() { disk.config[0] = 200; }
  void start() {
    fake = std::make_unique<FakeBackEnd>(disk);
    auto made = BlockDevice::create(memory.space, loop, options, {fake->path(), reconnect});
    ASSERT_TRUE(made) << made.error().message();
    device = *std::move(made);
    device->connect(interrupts);
    ASSERT_TRUE(device->activate(kBase | (device->features() & (kFlush | kWce)), {&driver.setup, 1}));
  }
  uint64_t read(uint64_t sector) {
    auto chain = driver.chain().readable_object(Request{.sector = sector}).writable(512).writable(1);
    chain.offer();
    device->notify(0);
    return chain.address(2);
  }
  std::array<uint8_t, 60> config() {
    std::array<uint8_t, 60> bytes;
    device->read_config(0, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }
  void pump() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }
  void lose() {
    fake->hang_up();
    while (device->connected() || (reconnect != 0 && !loop.host_timer_armed())) pump();
  }
  std::vector<std::byte> saved() {
    state::Saver saver;
    device->state(saver, true, kBase | kWce, {&driver.setup, 1});
    return saver.take();
  }
  // What is wrong with it; empty: nothing.
  std::string load(const std::vector<std::byte>& bytes) {
    state::Loader loader(bytes);
    device->state(loader, true, kBase | kWce, {&driver.setup, 1});
    return loader.error();
  }
  void pass_a_second() {
    loop.skip_host_time(1'000'000'000);
    loop.run_due();
    while (!device->connected() && !loop.host_timer_armed()) pump();
  }

  GuestMemory memory{memory::Backing::kMemfd};
  FakeQueue driver{memory, 8};
  FakeBackEnd::Options disk{.features = kBase | kFlush | kWce | feature(VHOST_USER_F_PROTOCOL_FEATURES) |
                                        feature(block::VIRTIO_BLK_F_DISCARD) | feature(50),
                            .config = std::vector<uint8_t>(60)};
  std::unique_ptr<FakeBackEnd> fake;
  event::VirtualClock clock;  // paused
  event::Loop loop{clock};
  BlockOptions options;
  unsigned reconnect = 0;
  Interrupts interrupts;
  std::unique_ptr<BlockDevice> device;
};

TEST_F(VhostUserBlockTest, shows_the_disk_of_the_back_end) {
  start();
  EXPECT_EQ(config()[0], 200);
  EXPECT_EQ(config()[34], 1) << "our number of queues";
  EXPECT_NE(device->features() & feature(block::VIRTIO_BLK_F_DISCARD), 0u);
  EXPECT_EQ(device->features() & feature(50), 0u) << "unknown features are not passed on";
  EXPECT_EQ(fake->set_features(), kBase | kFlush | kWce | feature(VHOST_USER_F_PROTOCOL_FEATURES));
}

TEST_F(VhostUserBlockTest, offers_less_when_asked_to) {
  options.discard = options.config_wce = false;
  start();
  EXPECT_EQ(device->features() & (feature(block::VIRTIO_BLK_F_DISCARD) | kWce), 0u);
}

TEST_F(VhostUserBlockTest, back_end_that_tells_no_size_is_refused) {
  disk.protocol = 0;
  fake = std::make_unique<FakeBackEnd>(disk);
  EXPECT_FALSE(BlockDevice::create(memory.space, loop, options, {fake->path(), 0}));
}

TEST_F(VhostUserBlockTest, several_queues_need_the_feature) {
  options.num_queues = 2;
  fake = std::make_unique<FakeBackEnd>(disk);
  EXPECT_FALSE(BlockDevice::create(memory.space, loop, options, {fake->path(), 0}));
}

TEST_F(VhostUserBlockTest, queues_left_to_the_machine_are_no_more_than_the_back_end_has) {
  options.auto_queues = 4;
  const auto queues = [&] {
    fake = std::make_unique<FakeBackEnd>(disk);
    auto made = BlockDevice::create(memory.space, loop, options, {fake->path(), 0});
    return made ? (*made)->queue_count() : 0;
  };
  EXPECT_EQ(queues(), 1u) << "a back end without VIRTIO_BLK_F_MQ";
  disk.features |= feature(block::VIRTIO_BLK_F_MQ);
  disk.queues = 2;
  EXPECT_EQ(queues(), 2u);
  disk.queues = 8;
  EXPECT_EQ(queues(), 4u);
}

TEST_F(VhostUserBlockTest, write_cache_is_set_in_the_back_end) {
  start();
  const std::byte on{1};
  device->write_config(32, {&on, 1});
  fake->await(vhost_user::Request::VHOST_USER_SET_CONFIG);
  EXPECT_EQ(config()[32], 1);
}

TEST_F(VhostUserBlockTest, requests_fail_without_a_back_end) {
  start();
  const uint64_t first = read(1);
  lose();
  const uint64_t second = read(2);
  for (const uint64_t status : {first, second}) {
    EXPECT_TRUE(driver.used());
    EXPECT_EQ(memory.get<uint8_t>(status), 1) << "VIRTIO_BLK_S_IOERR";
  }
}

TEST_F(VhostUserBlockTest, requests_wait_for_the_next_back_end) {
  reconnect = 1;
  start();
  read(1);
  read(2);
  read(3);
  const auto answered = fake->pop(0);
  fake->push(0, answered->head, 513);
  lose();
  read(4);
  EXPECT_TRUE(driver.used());
  EXPECT_FALSE(driver.used()) << "the others are kept";
  pass_a_second();
  for (const uint64_t sector : {2u, 3u, 4u}) {
    const auto chain = fake->pop(0);
    ASSERT_TRUE(chain);
    Request request;
    std::memcpy(&request, chain->readable.data(), sizeof request);
    EXPECT_EQ(request.sector, sector) << "in the order in which they came";
    fake->push(0, chain->head, 513);
  }
  pump();
  EXPECT_TRUE(driver.used() && driver.used() && driver.used());
}

TEST_F(VhostUserBlockTest, next_back_end_may_have_another_size_but_no_less) {
  reconnect = 1;
  start();
  auto other = disk;
  other.features &= ~kFlush;
  fake->set(other);
  lose();
  pass_a_second();
  EXPECT_FALSE(device->connected());
  disk.config[0] = 77;
  fake->set(disk);
  const uint32_t generation = device->config_generation();
  pass_a_second();
  EXPECT_TRUE(device->connected());
  EXPECT_EQ(config()[0], 77);
  EXPECT_NE(device->config_generation(), generation);
}

// --- what the back end says by itself -------------------------------------------------------------------

class SpeakingDiskTest : public VhostUserBlockTest {
 protected:
  SpeakingDiskTest() {
    disk.protocol |= 1u << VHOST_USER_PROTOCOL_F_BACKEND_REQ;
    start();
  }
  void resize(uint8_t sectors) {
    auto config = disk.config;
    config[0] = sectors;
    fake->set_config(config);
  }
  // Until the device has asked for the configuration, after the first time.
  void pump_until_asked(size_t times) {
    const auto asked = [&] {
      const auto all = fake->requests();
      return static_cast<size_t>(
          std::count(all.begin(), all.end(), vhost_user::Request::VHOST_USER_GET_CONFIG));
    };
    while (asked() < 1 + times) pump();
  }
};

TEST_F(SpeakingDiskTest, a_disk_that_grows_is_told_to_the_guest) {
  resize(77);
  fake->say(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
  pump_until_asked(1);
  EXPECT_EQ(config()[0], 77);
  EXPECT_EQ(config()[34], 1) << "our number of queues";
  EXPECT_EQ(interrupts.config, 1u);
}

TEST_F(SpeakingDiskTest, what_has_not_changed_is_told_to_nobody) {
  fake->say(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
  pump_until_asked(1);
  EXPECT_EQ(interrupts.config, 0u);
}

TEST_F(SpeakingDiskTest, a_disk_that_grows_before_the_driver_is_there_is_known) {
  device->reset();
  resize(77);
  fake->say(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
  pump_until_asked(1);
  EXPECT_EQ(config()[0], 77);
}

TEST_F(SpeakingDiskTest, odd_words_cost_the_connection) {
  read(1);
  fake->say(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, kVersion | kReply);
  while (device->connected()) pump();
  EXPECT_TRUE(driver.used()) << "the request fails";
}

TEST_F(VhostUserBlockTest, next_back_end_that_does_not_tell_its_size_keeps_nobody) {
  reconnect = 1;
  start();
  auto silent = disk;
  silent.sinful = vhost_user::Request::VHOST_USER_GET_CONFIG;
  silent.sin = test::Sin::kSilence;
  fake->set(silent);
  lose();
  loop.skip_host_time(1'000'000'000);
  loop.run_due();
  fake->await(silent.sinful, 2);
  pump();
  EXPECT_FALSE(device->connected());
  EXPECT_FALSE(loop.host_timer_armed()) << "it is waited for, not given up";
}

TEST_F(SpeakingDiskTest, the_next_back_end_can_speak_too) {
  device.reset();
  reconnect = 1;
  start();
  lose();
  pass_a_second();
  ASSERT_TRUE(device->connected());
  interrupts.config = 0;
  resize(99);
  fake->say(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
  while (interrupts.config == 0) pump();
  EXPECT_EQ(config()[0], 99);
}

TEST_F(VhostUserBlockTest, reset_forgets_what_was_kept) {
  reconnect = 1;
  start();
  read(1);
  lose();
  device->reset();
  driver.restart();
  ASSERT_TRUE(device->activate(kBase, {&driver.setup, 1}));
  pass_a_second();
  EXPECT_TRUE(device->connected());
  EXPECT_FALSE(fake->pop(0));
}

TEST_F(VhostUserBlockTest, its_end_waits_for_no_back_end) {
  disk.sinful = vhost_user::Request::VHOST_USER_GET_VRING_BASE;
  disk.sin = test::Sin::kSilence;
  start();
  read(1);
  device.reset();
  const auto asked = fake->requests();
  EXPECT_EQ(std::ranges::count(asked, vhost_user::Request::VHOST_USER_GET_VRING_BASE), 0);
  EXPECT_EQ(std::ranges::count(asked, vhost_user::Request::VHOST_USER_SET_VRING_ENABLE), 1) << "at the start";
}

// --- saving ---------------------------------------------------------------------------------------------

TEST_F(VhostUserBlockTest, saved_requests_go_to_the_back_end_that_is_there_then) {
  start();
  read(1);
  read(2);
  const auto bytes = saved();
  pump();
  EXPECT_TRUE(fake->pop(0)) << "and this one goes on";
  fake = std::make_unique<FakeBackEnd>(disk);
  auto made = BlockDevice::create(memory.space, loop, options, {fake->path(), 0});
  ASSERT_TRUE(made);
  device = *std::move(made);
  ASSERT_EQ(load(bytes), "");
  pump();
  for (const uint64_t sector : {1u, 2u}) {
    const auto chain = fake->pop(0);
    ASSERT_TRUE(chain);
    Request request;
    std::memcpy(&request, chain->readable.data(), sizeof request);
    EXPECT_EQ(request.sector, sector);
    fake->push(0, chain->head, 513);
  }
  pump();
  EXPECT_TRUE(driver.used() && driver.used());
}

TEST_F(VhostUserBlockTest, quiet_device_lets_its_back_end_write_nothing) {
  start();
  const uint64_t status = read(1);
  const auto chain = fake->pop(0);
  fake->push(0, chain->head, 513);
  read(2);
  device->quiesce();
  EXPECT_FALSE(fake->started(0));
  EXPECT_TRUE(driver.used()) << "what was finished is known";
  EXPECT_EQ(memory.get<uint8_t>(status), 0);
  EXPECT_FALSE(driver.used());
  pump();
  EXPECT_TRUE(fake->started(0));
  EXPECT_TRUE(fake->pop(0));
}

TEST_F(VhostUserBlockTest, write_cache_is_as_it_was_saved) {
  start();
  const std::byte on{1};
  device->write_config(32, {&on, 1});
  const auto bytes = saved();
  const std::byte off{0};
  device->write_config(32, {&off, 1});
  ASSERT_EQ(load(bytes), "");
  pump();
  fake->await(vhost_user::Request::VHOST_USER_SET_CONFIG, 3);
  EXPECT_EQ(config()[32], 1);
}

TEST_F(VhostUserBlockTest, state_of_another_disk_is_refused) {
  start();
  const auto bytes = saved();
  disk.config[0] = 77;
  fake = std::make_unique<FakeBackEnd>(disk);
  auto made = BlockDevice::create(memory.space, loop, options, {fake->path(), 0});
  ASSERT_TRUE(made);
  device = *std::move(made);
  EXPECT_NE(load(bytes), "");
}

TEST_F(VhostUserBlockTest, saved_requests_fail_when_there_is_no_back_end) {
  start();
  const uint64_t status = read(1);
  const auto bytes = saved();
  lose();
  EXPECT_TRUE(driver.used());
  memory.put<uint8_t>(status, 0xff);
  ASSERT_EQ(load(bytes), "");
  pump();
  EXPECT_EQ(memory.get<uint8_t>(status), 1) << "VIRTIO_BLK_S_IOERR";
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
