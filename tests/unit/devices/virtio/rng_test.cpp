// virtio-rng: random bytes, and the limit on them.
#include "devices/virtio/rng/device.h"

#include <gtest/gtest.h>

#include "fake_driver.h"

namespace ostler::virtio::rng {
namespace {

using test::FakeQueue;
using test::GuestMemory;

class RngTest : public testing::Test {
 protected:
  void start() {
    device = std::make_unique<RngDevice>(memory.space, loop, options);
    ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), {&driver.setup, 1}));
  }
  void ask(uint32_t bytes) {
    driver.chain().writable(bytes).offer();
    device->notify(0);
  }
  void pass(int64_t milliseconds) {
    clock.advance(milliseconds * 1'000'000);
    loop.run_due();
  }
  GuestMemory memory;
  FakeQueue driver{memory, 8};
  event::VirtualClock clock;  // paused: moved by advance() alone
  event::Loop loop{clock};
  Options options;
  std::unique_ptr<RngDevice> device;
};

TEST_F(RngTest, fills_what_is_asked_for) {
  start();
  auto chain = driver.chain().writable(32).writable(32);
  chain.offer();
  device->notify(0);
  EXPECT_EQ(driver.used()->length, 64u);
  EXPECT_NE(memory.bytes(chain.address(0), 32), std::string(32, '\0'));
  EXPECT_NE(memory.bytes(chain.address(0), 32), memory.bytes(chain.address(1), 32));
  EXPECT_FALSE(loop.next_deadline().has_value());
}

TEST_F(RngTest, huge_request_is_served_in_part) {
  start();
  ask(512 * 1024);
  EXPECT_EQ(driver.used()->length, RngDevice::kMostBytes);
}

TEST_F(RngTest, limit_holds_until_the_period_is_over) {
  options.max_bytes = 100;
  options.period = 1000;
  start();
  ask(64);
  ask(64);
  ask(64);
  EXPECT_EQ(driver.used()->length, 64u);
  EXPECT_EQ(driver.used()->length, 36u);
  EXPECT_FALSE(driver.used().has_value());
  pass(999);
  EXPECT_FALSE(driver.used().has_value());
  pass(1);
  EXPECT_EQ(driver.used()->length, 64u);
}

TEST_F(RngTest, reset_gives_no_more) {
  options.max_bytes = 64;
  options.period = 1000;
  start();
  ask(64);
  EXPECT_TRUE(driver.used().has_value());
  device->reset();
  FakeQueue other(memory, 8);
  ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), {&other.setup, 1}));
  other.chain().writable(64).offer();
  device->notify(0);
  EXPECT_FALSE(other.used().has_value());
}

TEST_F(RngTest, state_keeps_the_limit) {
  options.max_bytes = 64;
  options.period = 1000;
  start();
  ask(64);
  ask(64);
  pass(400);
  state::Saver saver;
  device->state(saver, true, feature(VIRTIO_F_VERSION_1), {&driver.setup, 1});
  const auto bytes = saver.take();
  device = std::make_unique<RngDevice>(memory.space, loop, options);
  state::Loader loader(bytes);
  device->state(loader, true, feature(VIRTIO_F_VERSION_1), {&driver.setup, 1});
  ASSERT_TRUE(loader.finish());
  EXPECT_TRUE(driver.used().has_value());
  device->notify(0);
  EXPECT_FALSE(driver.used().has_value());
  pass(600);
  EXPECT_TRUE(driver.used().has_value());
}

TEST_F(RngTest, request_without_room_breaks_the_queue) {
  start();
  driver.chain().readable("x").offer();
  device->notify(0);
  EXPECT_EQ(device->failures(), 1u);
}

}  // namespace
}  // namespace ostler::virtio::rng
