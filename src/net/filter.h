// A back end in front of another: what passes in either direction is seen, held back or let through. This one
// lets everything through.
#pragma once

#include <mutex>

#include "net/backend.h"

namespace ostler::net {

class Filter : public Backend, protected Receiver {
 public:
  // `inner` outlives the filter.
  explicit Filter(Backend& inner) : inner_(inner) {}
  ~Filter() override { inner_.attach(nullptr); }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  void attach(Receiver* receiver) override;
  bool send(const Frame& frame, unsigned queue) override { return inner_.send(frame, queue); }
  void receiver_ready(unsigned queue) override { inner_.receiver_ready(queue); }
  void wake_sender(unsigned queue) override { inner_.wake_sender(queue); }
  unsigned queue_pairs() const override { return inner_.queue_pairs(); }
  void set_active_queues(unsigned pairs) override { inner_.set_active_queues(pairs); }
  Offloads send_offloads() const override { return inner_.send_offloads(); }
  Offloads receive_offloads() const override { return inner_.receive_offloads(); }
  void set_receive_offloads(Offloads offloads) override { inner_.set_receive_offloads(offloads); }
  bool link_up() const override { return inner_.link_up(); }
  void set_link(bool up) override { inner_.set_link(up); }

 protected:
  bool receive(const Frame& frame, unsigned queue) override;
  void received_all(unsigned queue) override;
  void sendable(unsigned queue) override;
  void link_changed(bool up) override;

 private:
  Backend& inner_;
  std::mutex receiver_mutex_;  // held while the receiver is called; send() and its like do not take it
  Receiver* receiver_ = nullptr;
};

}  // namespace ostler::net
