// A driver that adds buffers while others are served: none is left behind, and nobody is kept for ever.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "devices/virtio/console/device.h"
#include "fake_driver.h"
#include "packed_driver.h"

namespace ostler::virtio {
namespace {

using test::FakePackedQueue;
using test::FakeQueue;
using test::GuestMemory;

constexpr uint64_t kFeatures = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_EVENT_IDX);

// One queue; during each chain another vCPU may run.
class BusyDevice final : public Device {
 public:
  explicit BusyDevice(memory::AddressSpace& memory) : Device(memory, "busy", {8}) {}
  ~BusyDevice() override { reset(); }
  uint16_t type() const override { return kTypeEntropy; }
  std::function<void()> meanwhile;
  unsigned served = 0;

 private:
  uint64_t device_features() const override { return 0; }
  void config_locked(std::vector<std::byte>&) override {}
  void process(unsigned index, Lock&) override {
    Queue& queue = *this->queue(index);
    serve_chains_locked(queue, [&](Chain&& chain) {
      queue.push(std::move(chain), 0);
      ++served;
      if (meanwhile) meanwhile();
      return true;
    });
    signal_locked(queue);
  }
  void device_state(state::Archive&) override {}
};

class ServeRestTest : public testing::Test {
 protected:
  void start(QueueSetup setup, uint64_t features = kFeatures) {
    device.serve_rest_on(loop);
    ASSERT_TRUE(device.activate(features, {&setup, 1}));
  }
  static void add(FakeQueue& driver) { driver.chain().readable("x").offer(); }
  static void add(FakePackedQueue& driver) { driver.chain().readable("x").offer(0); }
  template <class Driver>
  void add_until(Driver& driver, unsigned most) {
    offered = 1;
    add(driver);
    device.meanwhile = [this, &driver, most] {
      if (offered == most) return;
      ++offered;
      add(driver);
    };
    device.notify(0);
  }
  GuestMemory memory;
  event::VirtualClock clock;
  event::Loop loop{clock};
  unsigned offered = 0;
  BusyDevice device{memory.space};
};

TEST_F(ServeRestTest, one_call_serves_no_more_than_two_rounds) {
  FakeQueue driver(memory, 8);
  start(driver.setup);
  add_until(driver, 1000);
  EXPECT_EQ(device.served, 16u);
}

TEST_F(ServeRestTest, buffers_added_meanwhile_are_served_without_a_notification) {
  FakeQueue driver(memory, 8);
  start(driver.setup);
  add_until(driver, 17);
  // The driver added its last one before it could see that it was to notify of it.
  ASSERT_EQ(device.served, 16u);
  ASSERT_EQ(driver.available_event(), 16u);
  loop.run_due();
  EXPECT_EQ(device.served, 17u);
  EXPECT_EQ(driver.used_index(), 17u);
}

TEST_F(ServeRestTest, the_same_in_a_packed_ring) {
  FakePackedQueue driver(memory, 8);
  start(driver.setup, kFeatures | feature(VIRTIO_F_RING_PACKED));
  add_until(driver, 17);
  ASSERT_EQ(device.served, 16u);
  loop.run_due();
  EXPECT_EQ(device.served, 17u);
}

TEST_F(ServeRestTest, a_flood_is_served_in_shares) {
  FakeQueue driver(memory, 8);
  start(driver.setup);
  add_until(driver, 100);
  for (unsigned shares = 2; shares <= 6; ++shares) {
    loop.run_due();
    EXPECT_EQ(device.served, std::min(16 * shares, 96u));
  }
  loop.run_due();
  EXPECT_EQ(device.served, 100u);
  loop.run_due();
  EXPECT_EQ(driver.used_index(), 100u);
}

TEST_F(ServeRestTest, reset_before_the_rest) {
  FakeQueue driver(memory, 8);
  start(driver.setup);
  add_until(driver, 1000);
  device.reset();
  loop.run_due();
  EXPECT_EQ(device.served, 16u);
}

TEST_F(ServeRestTest, gone_before_the_rest) {
  FakeQueue driver(memory, 8);
  {
    BusyDevice other(memory.space);
    other.serve_rest_on(loop);
    ASSERT_TRUE(other.activate(kFeatures, {&driver.setup, 1}));
    other.meanwhile = [&] { add(driver); };
    other.meanwhile();
    other.notify(0);
  }
  loop.run_due();
}

TEST_F(ServeRestTest, the_rest_is_served_after_a_load) {
  FakeQueue driver(memory, 8);
  start(driver.setup);
  add_until(driver, 17);
  state::Saver saver;
  device.state(saver, true, kFeatures, {&driver.setup, 1});
  const auto bytes = saver.take();

  event::Loop other_loop(clock);
  BusyDevice restored(memory.space);
  restored.serve_rest_on(other_loop);
  state::Loader loader(bytes);
  restored.state(loader, true, kFeatures, {&driver.setup, 1});
  ASSERT_TRUE(loader.finish());
  other_loop.run_due();
  EXPECT_EQ(driver.used_index(), 17u);
}

// A terminal during whose writes the guest's other vCPU prints on.
struct PrintingTerminal final : chardev::CharBackend {
  void attach(chardev::CharFrontend*) override {}
  size_t write(std::span<const std::byte> bytes) override {
    written += bytes.size();
    if (meanwhile) meanwhile();
    return bytes.size();
  }
  void accept_input() override {}
  bool connected() const override { return true; }
  std::function<void()> meanwhile;
  size_t written = 0;
};

TEST_F(ServeRestTest, a_console_prints_all) {
  PrintingTerminal terminal;  // outlives the console
  console::Options options;
  options.max_ports = 1;
  console::ConsoleDevice console(memory.space, options);
  console.serve_rest_on(loop);
  ASSERT_TRUE(console.add_port({.id = "con"}, true, &terminal));
  FakeQueue in(memory, 8), out(memory, 8);
  const QueueSetup setups[] = {in.setup, out.setup, {}, {}};
  ASSERT_TRUE(console.activate(kFeatures, setups));
  unsigned left = 16;
  terminal.meanwhile = [&] {
    if (left == 0) return;
    --left;
    add(out);
  };
  add(out);
  console.notify(1);
  loop.run_due();
  EXPECT_EQ(terminal.written, 17u);
  EXPECT_EQ(out.used_index(), 17u);
}

}  // namespace
}  // namespace ostler::virtio
