// Several front ends on one back end, of which one has the keyboard, and the escape sequences of the
// terminal:
//
//   Ctrl-A h  this help            Ctrl-A c  next front end (guest's console, monitor)
//   Ctrl-A x  end the program      Ctrl-A b  send a break
//   Ctrl-A Ctrl-A  a Ctrl-A
//
// Used with a single front end for the keys alone.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "chardev/char_backend.h"
#include "event/loop.h"

namespace ostler::chardev {

class Mux final : public CharFrontend {
 public:
  static constexpr std::byte kEscape{1};  // Ctrl-A

  // `quit` is called on the loop's thread for Ctrl-A x. The back end is owned.
  Mux(event::Loop& loop, std::unique_ptr<CharBackend> backend, std::function<void()> quit);
  ~Mux() override;

  // One more front end's back end; before the loop runs. The first one has the keyboard at the start. Owned
  // by the mux.
  CharBackend& add_port();

  size_t can_receive() override;
  void receive(std::span<const std::byte> bytes) override;
  void event(CharEvent event) override;
  void writable() override;

 private:
  class Port;
  void key(std::byte byte);
  void command(std::byte byte);
  void say(std::string_view text);
  void deliver();
  void accept_input();

  event::Loop& loop_;
  std::unique_ptr<CharBackend> backend_;
  const std::function<void()> quit_;
  std::vector<std::unique_ptr<Port>> ports_;
  size_t focus_ = 0;
  bool escaped_ = false;
  std::deque<std::byte> input_;  // keys that the port in focus has no room for yet; bounded; loop's thread
  std::atomic<bool> waiting_{false};  // input_ is not empty: a port's accept_input() has something to do
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace ostler::chardev
