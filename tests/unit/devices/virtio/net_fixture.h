// A virtio-net device between a driver in a test and a back end that records.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "devices/virtio/net/device.h"
#include "fake_driver.h"

namespace ostler::virtio::net::test {

using virtio::test::FakeQueue;
using virtio::test::GuestMemory;

inline constexpr uint64_t kBase = feature(VIRTIO_F_VERSION_1);
inline const std::string kHeader(12, '\0');
inline const std::string kFrame = std::string(12, 'm') + "\x08\x06payload";

struct FakeBackend final : ostler::net::Backend {
  void attach(ostler::net::Receiver* next) override { receiver = next; }
  bool send(const ostler::net::Frame& frame, unsigned queue) override {
    if (room == 0) return false;
    --room;
    last_queue = queue;
    headers.push_back(frame.header);
    frames.emplace_back(reinterpret_cast<const char*>(frame.bytes.data()), frame.bytes.size());
    return true;
  }
  void receiver_ready(unsigned) override { ++ready; }
  void wake_sender(unsigned) override { ++wakes; }
  unsigned queue_pairs() const override { return pairs; }
  void set_active_queues(unsigned count) override { active = count; }
  ostler::net::Offloads send_offloads() const override { return offloads; }
  ostler::net::Offloads receive_offloads() const override { return offloads; }
  void set_receive_offloads(ostler::net::Offloads value) override { allowed = value; }
  bool link_up() const override { return up; }
  void set_link(bool value) override { links.push_back(value); }

  bool deliver(std::string_view frame, const ostler::net::VnetHeader& header = {}, unsigned queue = 0) {
    const bool taken = receiver->receive({std::as_bytes(std::span(frame)), header}, queue);
    receiver->received_all(queue);
    return taken;
  }
  ostler::net::Receiver* receiver = nullptr;
  size_t room = 1000;
  int ready = 0, wakes = 0;
  unsigned pairs = 1, active = 0, last_queue = 0;
  ostler::net::Offloads offloads = 0, allowed = 0;
  bool up = true;
  std::vector<bool> links;
  std::vector<std::string> frames;
  std::vector<ostler::net::VnetHeader> headers;
};

// Frames that wait in a kernel's queue.
struct FakeSource final : ostler::net::FrameSource {
  std::optional<Taken> take(std::span<const iovec> places) override {
    lent = 0;
    for (const iovec& place : places) lent += place.iov_len;
    if (frames.empty()) return std::nullopt;
    frame = frames.front();
    frames.pop_front();
    std::string_view left = frame;
    for (const iovec& place : places) {
      const size_t size = std::min(place.iov_len, left.size());
      std::memcpy(place.iov_base, left.data(), size);
      left.remove_prefix(size);
    }
    return Taken{header, frame.size(), std::as_bytes(std::span(left))};
  }
  void put_back(std::span<const std::byte> bytes) override {
    kept = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::deque<std::string> frames;
  ostler::net::VnetHeader header;
  std::string frame;  // the last one taken
  std::string kept;   // the last one put back
  size_t lent = 0;    // bytes, at the last call
};

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned) override { ++queue_interrupts; }
  void interrupt_config() override { ++config_interrupts; }
  void needs_reset() override { ++resets_needed; }
  int queue_interrupts = 0, config_interrupts = 0, resets_needed = 0;
};

class NetTest : public testing::Test {
 protected:
  void make() {
    device = std::make_unique<NetDevice>(memory.space, backend, options);
    device->connect(transport);
  }
  void start(uint64_t wanted = kBase) {
    features = wanted;
    make();
    ASSERT_TRUE(device->activate(features, setups()));
  }
  // Two pairs and control, when the driver takes several.
  std::vector<QueueSetup> setups() const {
    std::vector<QueueSetup> all = {rx.setup, tx.setup};
    if (backend.pairs > 1) {
      all.push_back(rx2.setup);
      all.push_back(tx2.setup);
    }
    all.push_back(control.setup);
    return all;
  }
  unsigned control_index() const { return backend.pairs > 1 ? 4 : 2; }
  // The acknowledgement of a command; 0: it was done.
  int command(uint8_t command_class, uint8_t number, std::string_view data) {
    const std::string head = {static_cast<char>(command_class), static_cast<char>(number)};
    auto chain = control.chain().readable(head);
    if (!data.empty()) chain.readable(data);
    chain.writable(1);
    const uint64_t ack = chain.address(data.empty() ? 1 : 2);
    memory.put<uint8_t>(ack, 9);
    chain.offer();
    device->notify(control_index());
    return memory.get<uint8_t>(ack);
  }
  void save_and_load() {
    state::Saver saver;
    device->state(saver, true, features, setups());
    const auto bytes = saver.take();
    device.reset();
    make();
    state::Loader loader(bytes);
    device->state(loader, true, features, setups());
    ASSERT_TRUE(loader.finish());
  }
  template <class T>
  T config(uint64_t offset) {
    T value;
    device->read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  GuestMemory memory;
  FakeQueue rx{memory, 8}, tx{memory, 8}, rx2{memory, 8}, tx2{memory, 8}, control{memory, 8};
  FakeBackend backend;
  Options options;
  CountingTransport transport;
  std::unique_ptr<NetDevice> device;
  uint64_t features = 0;
};

}  // namespace ostler::virtio::net::test
