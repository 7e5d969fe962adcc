// virtio devices for rigs, over back ends that answer at once and now and then have no room, so that a run
// repeats.
#pragma once

#include <sys/socket.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block/backend.h"
#include "block/worker_pool.h"
#include "devices/scsi/cd.h"
#include "devices/scsi/disk.h"
#include "devices/virtio/balloon/device.h"
#include "devices/virtio/block/device.h"
#include "devices/virtio/console/device.h"
#include "devices/virtio/net/device.h"
#include "devices/virtio/p9/device.h"
#include "devices/virtio/rng/device.h"
#include "devices/virtio/scsi/device.h"
#include "devices/virtio/vsock/device.h"
#include "rigs/p9_folder.h"
#include "rigs/prompt_disk.h"

namespace ostler::rigs {

class PromptNode final : public block::Backend {
 public:
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return 1 << 20; }
  bool read_only() const override { return false; }
  void read(uint64_t, std::vector<iovec> iov, block::Done done) override {
    for (const iovec& piece : iov)
      if (piece.iov_len != 0) std::memset(piece.iov_base, 0x5a, piece.iov_len);
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
  net::Offloads send_offloads() const override { return net::kChecksum; }
  net::Offloads receive_offloads() const override { return net::kChecksum; }
  net::Receiver* receiver = nullptr;
  unsigned room = 1;
};

// One frame that its receiver may have read into its own memory.
class OneFrame final : public net::FrameSource {
 public:
  explicit OneFrame(std::span<const std::byte> frame) : frame_(frame) {}
  std::optional<Taken> take(std::span<const iovec> places) override {
    if (frame_.empty()) return std::nullopt;
    const size_t bytes = frame_.size();
    for (const iovec& place : places) {
      const size_t size = std::min(place.iov_len, frame_.size());
      if (size != 0) std::memcpy(place.iov_base, frame_.data(), size);
      frame_ = frame_.subspan(size);
    }
    return Taken{{}, bytes, std::exchange(frame_, {})};
  }
  void put_back(std::span<const std::byte>) override {}

 private:
  std::span<const std::byte> frame_;
};

struct SlowChardev final : chardev::CharBackend {
  void attach(chardev::CharFrontend* next) override { frontend = next; }
  size_t write(std::span<const std::byte> bytes) override { return bytes.size() / 2 + turn++ % 2; }
  void accept_input() override {}
  chardev::CharFrontend* frontend = nullptr;
  unsigned turn = 0;
};

// Programs at some of the host's ports that send, receive and leave as they are told.
class Programs {
 public:
  class Host final : public virtio::vsock::Host {
   public:
    explicit Host(Programs& programs) : programs_(programs) {}
    ~Host() override { programs_.accepted_ = nullptr; }
    void listen(std::function<void(Fd)> accepted) override { programs_.accepted_ = std::move(accepted); }
    Fd connect(uint32_t port) override { return port % 4 == 3 ? Fd() : programs_.join(); }

   private:
    Programs& programs_;
  };

  void act(uint32_t random) {
    if (!accepted_) return;
    if (random % 4 == 0) {
      accepted_(join());
      const std::string line = (random >> 4 & 7) == 0 ? "CONNECT x\n" : "CONNECT 0\n";
      send(sockets_.back(), std::as_bytes(std::span(line)));
    }
    if (sockets_.empty()) return;
    const size_t at = (random >> 8) % sockets_.size();
    std::array<std::byte, 4096> bytes{};
    switch (random >> 2 & 3) {
      case 0:
        return send(sockets_[at], std::span(bytes).first(random >> 16 & 4095));
      case 1:
        (void)!::recv(sockets_[at].get(), bytes.data(), bytes.size(), 0);
        return;
      case 2:
        ::shutdown(sockets_[at].get(), (random >> 16 & 1) != 0 ? SHUT_WR : SHUT_RD);
        return;
      default:
        sockets_.erase(sockets_.begin() + static_cast<ptrdiff_t>(at));
    }
  }

 private:
  static void send(const Fd& socket, std::span<const std::byte> bytes) {
    (void)!::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  // The device's end; ours is kept, of the latest few.
  Fd join() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return {};
    if (sockets_.size() == 8) sockets_.erase(sockets_.begin());
    sockets_.emplace_back(ends[0]);
    return Fd(ends[1]);
  }
  std::vector<Fd> sockets_;
  std::function<void(Fd)> accepted_;
};

class VirtioBackends {
 public:
  static constexpr uint64_t kGuestCid = 3;
  static constexpr uint8_t kScsiTarget = 2;
  // "balloon", "blk", "net", "rng", "scsi", "console", "vsock", "9p", with all that a user can turn on. These
  // back ends outlive the device.
  std::unique_ptr<virtio::Device> make(const std::string& kind, memory::AddressSpace& memory) {
    if (kind == "blk")
      return std::make_unique<virtio::block::BlockDevice>(
          memory, std::vector<std::shared_ptr<block::Backend>>{node_}, everything<virtio::block::Options>());
    if (kind == "net")
      return std::make_unique<virtio::net::NetDevice>(memory, network_, everything<virtio::net::Options>());
    if (kind == "rng")
      return std::make_unique<virtio::rng::RngDevice>(memory, loop_, everything<virtio::rng::Options>());
    if (kind == "scsi") {
      auto own = everything<virtio::scsi::Options>();
      own.num_queues = 2;
      auto device = std::make_unique<virtio::scsi::ScsiDevice>(memory, own);
      device->add(kScsiTarget, 0, std::make_shared<scsi::Disk>(scsi_disk_, scsi::Options{}));
      scsi_cd_ = std::make_shared<scsi::Cd>(std::make_shared<PromptDisk>(), scsi::Options{});
      device->add(kScsiTarget, 1, scsi_cd_);
      return device;
    }
    if (kind == "balloon") {
      auto own = everything<virtio::balloon::Options>();
      own.deflate_on_oom = own.free_page_hint = own.free_page_reporting = true;
      auto device = std::make_unique<virtio::balloon::BalloonDevice>(memory, loop_, 1 << 16, own);
      balloon_ = device.get();
      return device;
    }
    if (kind == "vsock") {
      auto own = everything<virtio::vsock::Options>();
      own.guest_cid = kGuestCid;
      return std::make_unique<virtio::vsock::SocketDevice>(memory, loop_,
                                                           std::make_unique<Programs::Host>(programs_), own);
    }
    if (kind == "9p") {
      if (folder_ == nullptr) folder_ = std::make_unique<P9Folder>();
      auto own = everything<virtio::p9::Options>();
      own.mount_tag = "folder";
      return *virtio::p9::P9Device::create(memory, folder_->open(), own);
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
  static std::vector<std::string> kinds() {
    return {"balloon", "blk", "net", "rng", "scsi", "console", "vsock", "9p"};
  }

  // Something happens on the host's side.
  void stimulate(uint32_t random) {
    const std::vector<std::byte> bytes(14 + random % 9000, std::byte{7});
    if (network_.receiver != nullptr) {
      OneFrame source(bytes);
      network_.receiver->receive_from(source, 0);
      network_.receiver->received_all(0);
      network_.receiver->sendable(0);
    }
    if (balloon_ != nullptr) {
      balloon_->set_target(random);
      if ((random & 256) != 0) balloon_->reclaim_free_pages();
    }
    programs_.act(random);
    scsi_disk_->set_full((random & 3) == 0);
    scsi_disk_->go_on();
    if (scsi_cd_ != nullptr && (random >> 2 & 3) == 0) scsi_cd_->open_tray((random & 16) != 0);
    if (scsi_cd_ != nullptr && (random >> 2 & 3) == 1) scsi_cd_->close_tray();
    loop_.post([this] { loop_.stop(); });
    loop_.run();  // one turn
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
  std::shared_ptr<scsi::Cd> scsi_cd_;  // of the last one made
  std::shared_ptr<PromptDisk> scsi_disk_ = std::make_shared<PromptDisk>();
  EchoNetwork network_;
  Programs programs_;
  event::VirtualClock clock_;
  event::Loop loop_{clock_};
  virtio::balloon::BalloonDevice* balloon_ = nullptr;  // the last one made
  SlowChardev terminal_, channel_;
  std::unique_ptr<P9Folder> folder_;
};

}  // namespace ostler::rigs
