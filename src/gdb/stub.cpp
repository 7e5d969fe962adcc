#include "gdb/stub.h"

namespace ostler::gdb {

Stub::Stub(Target& target, chardev::CharBackend& backend) : target_(target), backend_(backend) {
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
  if (can_receive() != 0) backend_.accept_input();
}

void Stub::work() {
  size_t done = 0;
  // A request may end the session.
  while (done < input_.size() && output_.empty()) take(input_[done++]);
  input_.erase(0, std::min(done, input_.size()));
}

void Stub::take(char byte) {
  using Event = PacketReader::Event;
  const Event event = reader_.feed(byte);
  if (!session_) return;
  switch (event) {
    case Event::kPacket:
      if (session_->acknowledges()) write("+");
      session_->handle(reader_.packet());
      break;
    case Event::kDamaged:
      if (session_->acknowledges()) write("-");
      break;
    case Event::kInterrupt:
      session_->interrupt();
      break;
    case Event::kNak:
      if (session_->acknowledges()) write(last_frame_);
      break;
    case Event::kAck:
    case Event::kNothing:
      break;
  }
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
