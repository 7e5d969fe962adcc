#include "net/hub.h"

#include <algorithm>
#include <deque>

namespace ostler::net {
namespace {

constexpr size_t kMaxWaiting = 256;  // frames at a port

}  // namespace

class Hub::Port {
 public:
  virtual ~Port() = default;
  virtual bool deliver(const Frame& frame) = 0;  // false: deliver_waiting() is asked for when there is room
  virtual void delivered_all() {}
  virtual void wake() = 0;  // frames of this port are taken again

  // Guarded by Hub::mutex_. A frame is shared by all ports that it goes to.
  std::deque<std::shared_ptr<const std::vector<std::byte>>> waiting;
  bool refused = false;
};

class Hub::CardPort final : public Port, public Backend {
 public:
  explicit CardPort(Hub& hub) : hub_(hub) {}
  void attach(Receiver* receiver) override {
    const std::lock_guard lock(receiver_mutex_);
    receiver_ = receiver;
  }
  bool send(const Frame& frame, unsigned) override { return hub_.spread(*this, frame); }
  void receiver_ready(unsigned) override { hub_.task_.post(); }
  void wake_sender(unsigned) override { hub_.ask_to_send(*this); }

 private:
  bool deliver(const Frame& frame) override {
    const std::lock_guard lock(receiver_mutex_);
    return receiver_ == nullptr || receiver_->receive(frame, 0);
  }
  void delivered_all() override {
    const std::lock_guard lock(receiver_mutex_);
    if (receiver_ != nullptr) receiver_->received_all(0);
  }
  void wake() override {
    const std::lock_guard lock(receiver_mutex_);
    if (receiver_ != nullptr) receiver_->sendable(0);
  }

  Hub& hub_;
  std::mutex receiver_mutex_;  // held while the receiver is called
  Receiver* receiver_ = nullptr;
};

class Hub::NetworkPort final : public Port, private Receiver {
 public:
  NetworkPort(Hub& hub, Backend& network) : hub_(hub), network_(network) { network_.attach(this); }
  ~NetworkPort() override { network_.attach(nullptr); }

 private:
  bool deliver(const Frame& frame) override { return network_.send(frame, 0); }
  void wake() override { network_.receiver_ready(0); }
  bool receive(const Frame& frame, unsigned) override { return hub_.spread(*this, frame); }
  void sendable(unsigned) override { hub_.task_.post(); }

  Hub& hub_;
  Backend& network_;
};

Hub::Hub(event::Loop& loop) : task_(loop, [this] { drain(); }) {}

Hub::~Hub() = default;

Backend& Hub::add_port() {
  auto port = std::make_unique<CardPort>(*this);
  CardPort& socket = *port;
  ports_.push_back(std::move(port));
  return socket;
}

void Hub::join(Backend& network) {
  ports_.push_back(std::make_unique<NetworkPort>(*this, network));
}

bool Hub::spread(Port& from, const Frame& frame) {
  if (frame.bytes.size() > kMaxFrame || frame.header != VnetHeader{}) return true;
  std::shared_ptr<const std::vector<std::byte>> copy;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& port : ports_) {
      if (port.get() == &from || port->waiting.size() >= kMaxWaiting) continue;
      if (copy == nullptr)
        copy = std::make_shared<std::vector<std::byte>>(frame.bytes.begin(), frame.bytes.end());
      port->waiting.push_back(copy);
    }
    if (copy == nullptr && ports_.size() > 1) {
      from.refused = true;
      return false;
    }
  }
  if (copy != nullptr) task_.post();
  return true;
}

void Hub::ask_to_send(Port& from) {
  {
    const std::lock_guard lock(mutex_);
    from.refused = true;
  }
  task_.post();
}

bool Hub::deliver_waiting(Port& port) {
  bool any = false, more = true;
  // As many as can wait: whoever sends at the same time must not keep this thread.
  for (size_t left = kMaxWaiting; more && left != 0; --left) {
    std::shared_ptr<const std::vector<std::byte>> first;
    {
      const std::lock_guard lock(mutex_);
      if (port.waiting.empty()) {
        more = false;
        break;
      }
      first = port.waiting.front();
    }
    if (!port.deliver({*first})) {
      more = false;
      break;
    }
    any = true;
    const std::lock_guard lock(mutex_);
    port.waiting.pop_front();
  }
  if (any) port.delivered_all();
  return !more;
}

void Hub::drain() {
  bool done = true;
  for (const auto& port : ports_) done = deliver_waiting(*port) && done;
  if (!done) task_.post();
  std::vector<Port*> wake;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& port : ports_) {
      const bool room = std::any_of(ports_.begin(), ports_.end(), [&](const auto& other) {
        return other != port && other->waiting.size() < kMaxWaiting;
      });
      if (port->refused && (room || ports_.size() == 1)) {
        port->refused = false;
        wake.push_back(port.get());
      }
    }
  }
  for (Port* const port : wake) port->wake();
}

}  // namespace ostler::net
