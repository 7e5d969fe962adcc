// -netdev tap and bridge: the guest's frames go to the host's kernel, through a tap device, with the offloads
// that both understand. Queue pairs are descriptors of their own.
//
// The guest's frames are written by whoever sends them. The event loop's thread reads, as long as the card
// has room: what it has no room for stays in the kernel's queue, which drops when it is full.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "event/loop.h"
#include "net/backend.h"
#include "net/posted_task.h"
#include "net/tap_device.h"

namespace ostler::net {

class TapBackend final : public Backend {
 public:
  // Before the loop runs, or on its thread; so is destruction.
  static Result<std::unique_ptr<TapBackend>> create(event::Loop& loop, const TapOptions& options);
  TapBackend(event::Loop& loop, TapDevice device, std::string id);
  ~TapBackend() override;

  void attach(Receiver* receiver) override;
  bool send(const Frame& frame, unsigned queue) override;
  void receiver_ready(unsigned queue) override;
  void wake_sender(unsigned queue) override;
  unsigned queue_pairs() const override { return static_cast<unsigned>(queues_.size()); }
  void set_active_queues(unsigned pairs) override;
  Offloads send_offloads() const override { return device_.offloads; }
  Offloads receive_offloads() const override { return device_.offloads; }
  void set_receive_offloads(Offloads offloads) override;
  bool link_up() const override { return up_.load(); }
  void set_link(bool up) override { set_tap_carrier(device_.queues[0], up); }

  const std::string& interface() const { return device_.name; }

 private:
  struct Queue {
    explicit Queue(unsigned i) : index(i), buffer(kMaxFrame) {}
    const unsigned index;
    VnetHeader header;              // of the frame in buffer
    std::vector<std::byte> buffer;  // a frame or, while it is taken, what the receiver has no place for
    size_t filled = 0;              // of buffer: a frame that was put back; 0: none
    bool held = false;              // the receiver had no room
    bool watching = false;
    uint32_t watched = 0;              // epoll events
    std::atomic<bool> asked{false};    // the card has room again
    std::atomic<bool> refused{false};  // somebody waits for sendable()
  };
  class Source;
  void ready(Queue& queue, uint32_t events);
  void read(Queue& queue);
  bool deliver_held(Queue& queue);
  Receiver::Receipt take_one(Queue& queue);
  void update();  // what cards and senders asked for, and what the loop watches for
  void lost();

  event::Loop& loop_;
  const TapDevice device_;
  const std::string id_;
  std::vector<std::unique_ptr<Queue>> queues_;
  PostedTask update_task_;
  std::atomic<bool> up_{true};
  std::mutex active_mutex_;  // innermost
  unsigned active_ = 1;      // queues that the kernel uses

  std::mutex receiver_mutex_;  // held while the receiver is called
  Receiver* receiver_ = nullptr;
};

}  // namespace ostler::net
