#include "gdb/stub.h"

#include <utility>

namespace ostler::gdb {

Stub::Stub(Target& target, chardev::CharBackend& backend, event::Loop& loop)
    : target_(target), backend_(backend), loop_(loop) {
  backend_.attach(this);
}

Stub::~Stub() {
  backend_.attach(nullptr);
}

void Stub::event(chardev::CharEvent event) {
  if (event == chardev::CharEvent::kBreak) return;
  session_.reset();
  input_.clear();
  output_.clear();
  last_frame_.clear();
  reader_ = {};
  if (event == chardev::CharEvent::kOpened)
    session_.emplace(target_, [this](const std::string& d) { send(d); });
}

size_t Stub::can_receive() {
  return input_.empty() && output_.empty() ? kInput : 0;
}

void Stub::receive(std::span<const std::byte> bytes) {
  input_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  work();
}

void Stub::writable() {
  flush();
  work();
}

void Stub::work() {
  const bool had_no_room = can_receive() == 0;
  size_t done = 0;
  // A request may end the session.
  while (done < input_.size() && output_.empty())
    if (take(input_[done++])) break;
  input_.erase(0, done);
  if (!input_.empty() && output_.empty()) work_later();
  if (had_no_room && can_receive() != 0) backend_.accept_input();
}

void Stub::work_later() {
  if (std::exchange(work_posted_, true)) return;
  loop_.post([this, alive = std::weak_ptr<char>(alive_)] {
    if (alive.expired()) return;
    work_posted_ = false;
    work();
  });
}

bool Stub::take(char byte) {
  using Event = PacketReader::Event;
  const Event event = reader_.feed(byte);
  if (!session_) return false;
  switch (event) {
    case Event::kPacket:
      if (session_->acknowledges()) write("+");
      session_->handle(reader_.packet());
      return true;
    case Event::kDamaged:
      if (session_->acknowledges()) write("-");
      return true;
    case Event::kInterrupt:
      session_->interrupt();
      return true;
    case Event::kNak:
      if (session_->acknowledges()) write(last_frame_);
      return true;
    case Event::kAck:
    case Event::kNothing:
      break;
  }
  return false;
}

void Stub::send(const std::string& data) {
  last_frame_ = frame(data);
  write(last_frame_);
}

void Stub::write(std::string_view bytes) {
  output_ += bytes;
  flush();
}

void Stub::flush() {
  const size_t taken = backend_.write(std::as_bytes(std::span(output_)));
  output_.erase(0, taken);
}

}  // namespace ostler::gdb
