// Who comes to a listening socket. While the host has no descriptor for them (accept(2): EMFILE, ENFILE,
// ENOBUFS, ENOMEM) they wait in the socket's queue, and epoll would tell of them again and again: then the
// socket is left alone for a while.
//
// On the loop's thread, or while it does not run.
#pragma once

#include <functional>
#include <string>

#include "base/fd.h"
#include "event/loop.h"

namespace ostler::event {

class Acceptor {
 public:
  // `somebody` is called when there may be somebody to accept(). `what`: whose socket, in the warning.
  Acceptor(Loop& loop, std::string what, std::function<void()> somebody);
  ~Acceptor() { stop(); }
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // `listener` does not block and is the caller's until stop(). Nothing when it was started.
  void start(int listener);
  void stop();
  bool started() const { return listener_ >= 0; }
  // The next one, not blocking; none: nobody, or no descriptor for them. Started only.
  Fd accept();
  // The caller's own accept4() has failed with `error`.
  void failed(int error);

 private:
  static constexpr int64_t kRestNs = 1'000'000'000;  // of the host's time
  void watch();
  void unwatch();

  Loop& loop_;
  const std::string what_;
  const std::function<void()> somebody_;
  int listener_ = -1;
  bool watched_ = false;
  bool told_ = false;
  HostTimer rest_;  // last: its destructor waits for the callback
};

}  // namespace ostler::event
