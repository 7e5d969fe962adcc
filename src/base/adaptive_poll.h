// How long a thread that has nothing to do looks for work before it sleeps. To wake a sleeping thread takes
// the waker and the host tens of microseconds, as long as a fast disk takes for a request.
//
// The window follows what happens: waits that ended soon after the thread had gone to sleep make it wider, a
// long one closes it. So an idle guest costs nothing, and one that waits for its disk is not kept waiting
// by us. docs/architecture.md, "Waiting".
#pragma once

#include <cstdint>

namespace ostler {

class AdaptivePoll {
 public:
  // `most`: the widest window, in nanoseconds; 0: it never opens.
  explicit AdaptivePoll(uint64_t most) : most_(most) {}

  // Begins a wait. Calls `found` while the window is open, until it says that there is work; false: sleep.
  template <class F>
  bool look(F&& found) {
    if (most_ == 0) return false;
    begin_ = now();
    if (window_ == 0) return false;
    do {
      if (found()) return true;
    } while (let_others_run() && now() - begin_ < window_);
    return false;
  }
  // Ends it: there is work, found by looking or by waking up.
  void end() {
    if (most_ != 0) waited(now() - begin_);
  }

  uint64_t window() const { return window_; }
  // What end() does, for a wait of so many nanoseconds.
  void waited(uint64_t nanoseconds);

 private:
  static uint64_t now();  // nanoseconds
  // Gives the processor to whoever wants it, perhaps to do what is waited for. False: somebody wanted it for
  // long, so that looking takes time from others.
  static bool let_others_run();

  uint64_t most_;
  uint64_t window_ = 0;
  uint64_t begin_ = 0;
};

}  // namespace ostler
