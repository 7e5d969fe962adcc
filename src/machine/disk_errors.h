// werror=stop, rerror=stop and a full host disk: the guest is paused, and goes on when there is room again.
//
// Devices keep the requests that failed. While the guest is paused for lack of room they are sent again once
// a second; when a second passes without another error, the guest goes on. After other errors somebody must
// resume it. The machine's thread, but for failed().
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "base/fd.h"
#include "event/loop.h"

namespace ostler::machine {

class DiskErrors {
 public:
  struct Actions {
    std::function<bool()> paused;  // the guest is
    std::function<void()> pause;
    std::function<void()> resume;  // the guest, which sends what was kept
    std::function<void()> send_again;
  };
  DiskErrors(event::Loop& loop, Actions actions,
             std::chrono::milliseconds interval = std::chrono::seconds(1));
  ~DiskErrors();

  void failed(const std::string& disk, int error);  // any thread
  // The guest is paused since a request failed.
  bool waiting() const { return waiting_; }
  // Somebody else has paused, resumed or reset the guest: it is theirs to resume.
  void forget();

 private:
  void on_failed(const std::string& disk, int error);
  void tick();
  void arm(bool on);

  event::Loop& loop_;
  const Actions actions_;
  const std::chrono::milliseconds interval_;
  const Fd timer_;  // of the host's clock: that of the guest stands still
  bool waiting_ = false;
  bool sent_again_ = false;
  unsigned errors_ = 0;  // since the requests were sent again
};

}  // namespace ostler::machine
