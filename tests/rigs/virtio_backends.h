// virtio devices for rigs, over back ends that answer at once and now and then have no room, so that a run
// repeats.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block/backend.h"
#include "block/worker_pool.h"
#include "devices/virtio/balloon/device.h"
#include "devices/virtio/block/device.h"
#include "devices/virtio/console/device.h"
#include "devices/virtio/net/device.h"
#include "devices/virtio/rng/device.h"

namespace ostler::rigs {

class PromptNode final : public block::Backend {
 public:
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return 1 << 20; }
  bool read_only() const override { return false; }
  void read(uint64_t, std::vector<iovec> iov, block::Done done) override {
    for (const iovec& piece : iov) std::memset(piece.iov_base, 0x5a, piece.iov_len);
    done(0);
  }
  void write(uint64_t, std::vector<iovec>, block::Done done) override { done(0); }
  void flush(block::Done done) override { done(0); }
  void discard(uint64_t, uint64_t, block::Done done) override { done(0); }
  void write_zeroes(uint64_t, uint64_t, bool, block::Done done) override { done(EIO); }
  void defer(std::function<void()> task) override { pool_.run(std::move(task)); }

 private:
  const std::string name_ = "prompt";
  block::WorkerPool pool_{1};
};

struct EchoNetwork final : net::Backend {
  void attach(net::Receiver* next) override { receiver = next; }
  bool send(const net::Frame&, unsigned) override { return room-- % 8 != 0; }
  void receiver_ready(unsigned) override {}
  void wake_sender(unsigned) override {}
  net::Receiver* receiver = nullptr;
  unsigned room = 1;
};

struct SlowChardev final : chardev::CharBackend {
  void attach(chardev::CharFrontend* next) override { frontend = next; }
  size_t write(std::span<const std::byte> bytes) override { return bytes.size() / 2 + turn++ % 2; }
  void accept_input() override {}
  chardev::CharFrontend* frontend = nullptr;
  unsigned turn = 0;
};

class VirtioBackends {
 public:
  // "balloon", "blk", "net", "rng", "console", with all that a user can turn on. These back ends outlive the
  // device.
  std::unique_ptr<virtio::Device> make(const std::string& kind, memory::AddressSpace& memory) {
    if (kind == "blk")
      return std::make_unique<virtio::block::BlockDevice>(
          memory, std::vector<std::shared_ptr<block::Backend>>{node_}, everything<virtio::block::Options>());
    if (kind == "net")
      return std::make_unique<virtio::net::NetDevice>(memory, network_, everything<virtio::net::Options>());
    if (kind == "rng")
      return std::make_unique<virtio::rng::RngDevice>(memory, loop_, everything<virtio::rng::Options>());
    if (kind == "balloon") {
      auto own = everything<virtio::balloon::Options>();
      own.deflate_on_oom = own.free_page_hint = own.free_page_reporting = true;
      auto device = std::make_unique<virtio::balloon::BalloonDevice>(memory, loop_, 1 << 16, own);
      balloon_ = device.get();
      return device;
    }
    auto options = everything<virtio::console::Options>();
    options.max_ports = 2;
    auto device = std::make_unique<virtio::console::ConsoleDevice>(memory, options);
    virtio::console::PortOptions port;
    (void)device->add_port(port, true, &terminal_);
    port.name = "channel";
    (void)device->add_port(port, false, &channel_);
    return device;
  }
  static std::vector<std::string> kinds() { return {"balloon", "blk", "net", "rng", "console"}; }

  // Something happens on the host's side.
  void stimulate(uint32_t random) {
    const std::vector<std::byte> bytes(14 + random % 3000, std::byte{7});
    if (network_.receiver != nullptr) {
      network_.receiver->receive({bytes}, 0);
      network_.receiver->received_all(0);
      network_.receiver->sendable(0);
    }
    if (balloon_ != nullptr) {
      balloon_->set_target(random);
      if ((random & 256) != 0) balloon_->reclaim_free_pages();
    }
    auto* const port = (random & 1) != 0 ? terminal_.frontend : channel_.frontend;
    if (port == nullptr) return;
    port->receive(std::span(bytes).first(std::min(port->can_receive(), bytes.size())));
    port->writable();
    if (random % 5 == 0)
      port->event((random & 64) != 0 ? chardev::CharEvent::kOpened : chardev::CharEvent::kClosed);
  }

 private:
  template <class Options>
  static Options everything() {
    Options options;
    options.packed = options.in_order = true;
    return options;
  }
  std::shared_ptr<PromptNode> node_ = std::make_shared<PromptNode>();
  EchoNetwork network_;
  event::VirtualClock clock_;
  event::Loop loop_{clock_};
  virtio::balloon::BalloonDevice* balloon_ = nullptr;  // the last one made
  SlowChardev terminal_, channel_;
};

}  // namespace ostler::rigs
