#include "net/filter.h"

namespace ostler::net {

void Filter::attach(Receiver* receiver) {
  if (receiver == nullptr) inner_.attach(nullptr);
  {
    const std::lock_guard lock(receiver_mutex_);
    receiver_ = receiver;
  }
  if (receiver != nullptr) inner_.attach(this);
}

bool Filter::receive(const Frame& frame, unsigned queue) {
  const std::lock_guard lock(receiver_mutex_);
  return receiver_ == nullptr || receiver_->receive(frame, queue);
}

void Filter::received_all(unsigned queue) {
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->received_all(queue);
}

void Filter::sendable(unsigned queue) {
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->sendable(queue);
}

void Filter::link_changed(bool up) {
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->link_changed(up);
}

}  // namespace ostler::net
