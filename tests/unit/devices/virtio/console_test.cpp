// virtio-console: ports, back pressure, control messages.
#include <gtest/gtest.h>

#include "devices/virtio/console/device.h"
#include "devices/virtio/device_types.h"
#include "fake_driver.h"

namespace ostler::virtio {
namespace {

using console::ConsoleDevice;
using test::FakeQueue;
using test::GuestMemory;

constexpr uint64_t kMultiport = feature(VIRTIO_F_VERSION_1) | feature(console::VIRTIO_CONSOLE_F_MULTIPORT);

struct FakeChardev final : chardev::CharBackend {
  void attach(chardev::CharFrontend* next) override { frontend = next; }
  size_t write(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(bytes.size(), room);
    room -= taken;
    output.append(reinterpret_cast<const char*>(bytes.data()), taken);
    return taken;
  }
  void accept_input() override { ++accepts; }
  bool connected() const override { return is_connected; }
  void input(std::string_view text) { frontend->receive(std::as_bytes(std::span(text))); }
  chardev::CharFrontend* frontend = nullptr;
  std::string output;
  size_t room = 100000;
  int accepts = 0;
  bool is_connected = true;
};

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned) override {}
  void interrupt_config() override {}
  void needs_reset() override { ++resets_needed; }
  int resets_needed = 0;
};

struct Message {
  uint32_t id;
  uint16_t event;
  uint16_t value;
};

class ConsoleTest : public testing::Test {
 protected:
  // Port 0 a console, port 1 named "org.test".
  void start(uint64_t features = kMultiport) {
    console::Options options;
    options.max_ports = 2;
    device = std::make_unique<ConsoleDevice>(memory.space, options);
    device->connect(transport);
    ASSERT_TRUE(device->add_port({.id = "con"}, true, &terminal));
    ASSERT_TRUE(device->add_port({.id = "chan", .name = "org.test"}, false, &channel));
    const QueueSetup setups[] = {in0.setup,         out0.setup, control_in.setup,
                                 control_out.setup, in1.setup,  out1.setup};
    ASSERT_TRUE(device->activate(features, setups));
  }
  void tell(uint32_t id, uint16_t event, uint16_t value) {
    control_out.chain().readable_object(Message{id, event, value}).offer();
    device->notify(3);
  }
  // Offers a buffer and returns what came in it, as "event/id/value/name".
  std::string hear() {
    auto chain = control_in.chain().writable(64);
    chain.offer();
    device->notify(2);
    const auto used = control_in.used();
    if (!used) return "";
    const auto message = memory.get<Message>(chain.address(0));
    return std::to_string(message.event) + "/" + std::to_string(message.id) + "/" +
           std::to_string(message.value) + "/" + memory.bytes(chain.address(0) + 8, used->length - 8);
  }
  GuestMemory memory;
  FakeQueue in0{memory, 8}, out0{memory, 8}, control_in{memory, 16}, control_out{memory, 16}, in1{memory, 8},
      out1{memory, 8};
  FakeChardev terminal, channel;
  CountingTransport transport;
  std::unique_ptr<ConsoleDevice> device;
};

TEST_F(ConsoleTest, output_reaches_the_terminal) {
  start();
  out0.chain().readable("hello ").readable("world").offer();
  device->notify(1);
  EXPECT_EQ(terminal.output, "hello world");
  EXPECT_TRUE(out0.used().has_value());
}

TEST_F(ConsoleTest, slow_terminal_gets_every_byte_once) {
  start();
  terminal.room = 3;
  out0.chain().readable("abcdef").offer();
  out0.chain().readable("ghi").offer();
  device->notify(1);
  EXPECT_EQ(out0.used_index(), 0);
  terminal.room = 4;
  terminal.frontend->writable();
  EXPECT_EQ(out0.used_index(), 1);
  terminal.room = 100;
  terminal.frontend->writable();
  EXPECT_EQ(terminal.output, "abcdefghi");
  EXPECT_EQ(out0.used_index(), 2);
}

TEST_F(ConsoleTest, input_needs_a_buffer) {
  start();
  EXPECT_EQ(terminal.frontend->can_receive(), 0u);
  auto chain = in0.chain().writable(16);
  chain.offer();
  device->notify(0);
  EXPECT_GE(terminal.accepts, 2);
  EXPECT_EQ(terminal.frontend->can_receive(), 16u);
  terminal.input("key");
  EXPECT_EQ(in0.used()->length, 3u);
  EXPECT_EQ(memory.bytes(chain.address(0), 3), "key");
}

TEST_F(ConsoleTest, named_port_listens_once_it_is_open) {
  start();
  in1.chain().writable(16).offer();
  EXPECT_EQ(channel.frontend->can_receive(), 0u);
  tell(1, 6, 1);
  EXPECT_EQ(channel.frontend->can_receive(), 16u);
  tell(1, 6, 0);
  EXPECT_EQ(channel.frontend->can_receive(), 0u);
}

TEST_F(ConsoleTest, ports_are_announced) {
  start();
  tell(0xffffffff, 0, 1);
  EXPECT_EQ(hear(), "1/0/1/");
  EXPECT_EQ(hear(), "1/1/1/");
  tell(0, 3, 1);
  EXPECT_EQ(hear(), "4/0/1/");
  EXPECT_EQ(hear(), "6/0/1/");
  tell(1, 3, 1);
  EXPECT_EQ(hear(), "7/1/1/org.test");
  EXPECT_EQ(hear(), "6/1/1/");
}

TEST_F(ConsoleTest, host_disconnect_is_told) {
  start();
  channel.frontend->event(chardev::CharEvent::kClosed);
  EXPECT_EQ(hear(), "6/1/0/");
}

TEST_F(ConsoleTest, control_flood_does_not_grow) {
  start();
  for (int i = 0; i < 1000; ++i) tell(0, 0, 1);
  EXPECT_EQ(hear(), "1/0/1/");
  EXPECT_EQ(hear(), "1/1/1/");
  EXPECT_EQ(hear(), "");
}

TEST_F(ConsoleTest, control_of_absent_ports_is_ignored) {
  start();
  tell(2, 3, 1);
  tell(0xffffffff, 6, 1);
  EXPECT_EQ(transport.resets_needed, 0);
}

TEST_F(ConsoleTest, short_control_message_needs_a_reset) {
  start();
  control_out.chain().readable("abc").offer();
  device->notify(3);
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(ConsoleTest, driver_without_multiport_has_port_0) {
  start(feature(VIRTIO_F_VERSION_1));
  in0.chain().writable(16).offer();
  EXPECT_EQ(terminal.frontend->can_receive(), 16u);
  tell(0, 0, 1);
  EXPECT_EQ(hear(), "");
}

TEST_F(ConsoleTest, port_number_taken) {
  start();
  EXPECT_FALSE(device->add_port({.id = "again", .nr = 1}, false, nullptr));
  EXPECT_FALSE(device->add_port({.id = "full"}, false, nullptr));
}

TEST_F(ConsoleTest, state_keeps_half_written_output) {
  start();
  terminal.room = 3;
  out0.chain().readable("abcdef").offer();
  device->notify(1);
  const QueueSetup setups[] = {in0.setup,         out0.setup, control_in.setup,
                               control_out.setup, in1.setup,  out1.setup};
  state::Saver saver;
  device->state(saver, true, kMultiport, setups);
  const auto bytes = saver.take();
  state::Loader loader(bytes);
  device->state(loader, true, kMultiport, setups);
  ASSERT_TRUE(loader.finish());
  terminal.room = 100;
  terminal.frontend->writable();
  EXPECT_EQ(terminal.output, "abcdef");
}

TEST(DeviceTypes, each_has_properties_and_help) {
  for (const auto& type : device_types()) {
    EXPECT_EQ(type.properties->owner(), type.name);
    EXPECT_NE(type.properties->help().find("id=<str>"), std::string::npos) << type.name;
  }
}

}  // namespace
}  // namespace ostler::virtio
