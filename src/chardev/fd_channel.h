// A back end on file descriptors: the part that terminal, file, pty and socket share. Output is queued by any
// thread and written by the loop's thread, so that a vCPU never waits for a slow reader; input is read there
// while the front end has room. Construction, destruction and everything protected: on the loop's thread, or
// while it does not run.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "chardev/char_backend.h"
#include "event/loop.h"

namespace ostler::chardev {

class FdChannel : public CharBackend {
 public:
  ~FdChannel() override;
  FdChannel(const FdChannel&) = delete;
  FdChannel& operator=(const FdChannel&) = delete;

  void attach(CharFrontend* frontend) override;
  size_t write(std::span<const std::byte> bytes) override;
  void accept_input() override;
  bool connected() const override { return connected_.load(std::memory_order_acquire); }

 protected:
  // Bytes queued at most; beyond them write() is short.
  static constexpr size_t kQueueSize = 64 * 1024;

  explicit FdChannel(event::Loop& loop) : loop_(loop) {}

  // Begins to use descriptors that the derived class owns; -1: none in that direction. `chunk`: at most so
  // many bytes in one write, after poll() said that there is room: for descriptors that must stay blocking,
  // since they are shared with other processes.
  void connect(int in, int out, size_t chunk = kQueueSize);
  void disconnect();  // before the descriptors are closed; queued output is tried once more, the rest dropped
  virtual void peer_closed() { disconnect(); }  // end of file or error; on the loop's thread
  event::Loop& loop() { return loop_; }
  CharFrontend* frontend() { return frontend_; }

 private:
  void flush();
  bool write_some();  // false: the peer is gone
  void update_interest();
  void update_interest_and_resume();
  void readable();
  void readable_again();
  void end_of_input();
  void schedule(void (FdChannel::*what)());

  event::Loop& loop_;
  CharFrontend* frontend_ = nullptr;
  int in_ = -1, out_ = -1;
  size_t chunk_ = kQueueSize;
  bool in_watched_ = false, out_watched_ = false;  // registered with the loop
  bool input_wanted_ = true, output_waiting_ = false;
  std::vector<std::byte> writing_;  // taken from queue_, loop's thread
  size_t written_ = 0;
  std::atomic<bool> connected_{false}, input_paused_{false};

  std::mutex mutex_;  // guards what follows
  std::vector<std::byte> queue_;
  bool flush_posted_ = false, short_ = false;

  std::shared_ptr<char> alive_ = std::make_shared<char>();  // tasks that outlive the object do nothing
};

}  // namespace ostler::chardev
