// Serves debuggers, one after the other, on a character back end. While a reply cannot be sent, no request is
// read, and after each request the loop's other work has its turn: a client holds up nobody but itself. On
// the event loop's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "chardev/char_backend.h"
#include "event/loop.h"
#include "gdb/packet.h"
#include "gdb/session.h"
#include "gdb/target.h"

namespace ostler::gdb {

class Stub final : private chardev::CharFrontend {
 public:
  // All outlive the stub.
  Stub(Target& target, chardev::CharBackend& backend, event::Loop& loop);
  ~Stub() override;
  Stub(const Stub&) = delete;
  Stub& operator=(const Stub&) = delete;

  // None: nobody is connected.
  Session* session() { return session_ ? &*session_ : nullptr; }

 private:
  // chardev::CharFrontend
  size_t can_receive() override;
  void receive(std::span<const std::byte> bytes) override;
  void event(chardev::CharEvent event) override;
  void writable() override;

  void work();
  void work_later();
  bool take(char byte);  // whether that was the end of a request
  void send(const std::string& data);
  void write(std::string_view bytes);
  void flush();

  static constexpr size_t kInput = 4096;

  Target& target_;
  chardev::CharBackend& backend_;
  event::Loop& loop_;
  std::string input_, output_;  // not looked at, not sent yet
  PacketReader reader_;
  std::string last_frame_;  // to be sent again when the client asks
  bool work_posted_ = false;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  // a task that outlives the stub does nothing
  std::optional<Session> session_;
};

}  // namespace ostler::gdb
