#include "chardev/mux.h"

#include <string_view>

namespace ostler::chardev {
namespace {

constexpr size_t kInputSize = 4096;
constexpr std::string_view kHelp =
    "\r\n"
    "Ctrl-A h       this help\r\n"
    "Ctrl-A x       end the virtual machine\r\n"
    "Ctrl-A c       switch between console and monitor\r\n"
    "Ctrl-A b       send a break (magic SysRq)\r\n"
    "Ctrl-A Ctrl-A  send a Ctrl-A\r\n";

}  // namespace

class Mux::Port final : public CharBackend {
 public:
  explicit Port(Mux& mux) : mux_(mux) {}
  void attach(CharFrontend* frontend) override {
    frontend_ = frontend;
    if (frontend_ != nullptr && mux_.backend_->connected()) frontend_->event(CharEvent::kOpened);
    mux_.accept_input();
  }
  size_t write(std::span<const std::byte> bytes) override { return mux_.backend_->write(bytes); }
  void accept_input() override { mux_.accept_input(); }
  bool connected() const override { return mux_.backend_->connected(); }
  CharFrontend* frontend() { return frontend_; }

 private:
  Mux& mux_;
  CharFrontend* frontend_ = nullptr;
};

Mux::Mux(event::Loop& loop, std::unique_ptr<CharBackend> backend, std::function<void()> quit)
    : loop_(loop), backend_(std::move(backend)), quit_(std::move(quit)) {
  backend_->attach(this);
}

Mux::~Mux() {
  backend_->attach(nullptr);
}

CharBackend& Mux::add_port() {
  ports_.push_back(std::make_unique<Port>(*this));
  return *ports_.back();
}

// Escape keys get through while the guest does not listen, as long as our own queue lasts.
size_t Mux::can_receive() {
  return kInputSize - input_.size();
}

void Mux::accept_input() {
  if (!waiting_.exchange(false)) return;
  loop_.post([this, alive = std::weak_ptr<char>(alive_)] {
    if (!alive.expired()) deliver();
  });
}

void Mux::receive(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) key(byte);
  deliver();
}

void Mux::key(std::byte byte) {
  if (escaped_) {
    escaped_ = false;
    command(byte);
  } else if (byte == kEscape) {
    escaped_ = true;
  } else if (input_.size() < kInputSize) {
    input_.push_back(byte);
  }
}

void Mux::command(std::byte byte) {
  switch (static_cast<char>(byte)) {
    case 'h':
    case '?':
      say(kHelp);
      return;
    case 'x':
      say("\r\n");
      if (quit_) quit_();
      return;
    case 'c':
      deliver();
      input_.clear();
      if (!ports_.empty()) focus_ = (focus_ + 1) % ports_.size();
      return;
    case 'b':
      if (focus_ < ports_.size() && ports_[focus_]->frontend() != nullptr)
        ports_[focus_]->frontend()->event(CharEvent::kBreak);
      return;
    case static_cast<char>(kEscape):
      input_.push_back(kEscape);
      return;
    default:
      return;
  }
}

void Mux::say(std::string_view text) {
  backend_->write(std::as_bytes(std::span(text)));
}

void Mux::deliver() {
  CharFrontend* to = focus_ < ports_.size() ? ports_[focus_]->frontend() : nullptr;
  const bool was_full = input_.size() == kInputSize;
  while (!input_.empty()) {
    // First announce that we wait, then look: accept_input() either comes later and sees it, or its room is
    // seen here.
    waiting_.store(true);
    if (to == nullptr || to->can_receive() == 0) break;
    const std::byte byte = input_.front();
    input_.pop_front();
    to->receive(std::span(&byte, 1));
  }
  if (input_.empty()) waiting_.store(false);
  if (was_full && input_.size() < kInputSize) backend_->accept_input();
}

void Mux::event(CharEvent event) {
  for (auto& port : ports_)
    if (port->frontend() != nullptr) port->frontend()->event(event);
}

void Mux::writable() {
  for (auto& port : ports_)
    if (port->frontend() != nullptr) port->frontend()->writable();
}

}  // namespace ostler::chardev
