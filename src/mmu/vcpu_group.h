// How the vCPUs of a machine make each other forget things, and stop each other. Each vCPU has a Participant;
// its run loop looks at pending() before each block of guest code and calls service() when it is set. A
// participant is "running" while its thread executes guest code or may use host addresses from its TLB.
// Requests wait for running participants only; one that is not running (halted, paused, inside a device)
// finds them when it enters.
//
//     enter_running()  -> [ service() ... guest code ... ] ->  leave_running()
//                              ^ other threads: kick()
//
// A vCPU thread must not be running when it calls into a device (port or memory I/O) or blocks for any other
// reason: devices take locks, and remap memory, which waits for running participants. Lock order: everything
// else -> VcpuGroup; kick callbacks are called with its mutex held and take no locks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "memory/address.h"

namespace ostler::mmu {

class VcpuGroup;

// What a participant is asked to do, always on its own thread. A vCPU's MMU implements it.
class Coherent {
 public:
  virtual ~Coherent() = default;
  virtual void drop_translations() = 0;                            // all of the TLB
  virtual void drop_write_access(const std::byte* host_page) = 0;  // null: to every page
  // Between blocks only.
  virtual void code_stale(GuestPhys page, unsigned first, unsigned last) = 0;
};

class Participant {
 public:
  Participant(VcpuGroup& group, Coherent& coherent);
  ~Participant();
  Participant(const Participant&) = delete;
  Participant& operator=(const Participant&) = delete;

  // Called, by any thread, when pending() became true: must make a running vCPU reach its next block head
  // soon. May be called in excess. Set before the vCPU runs.
  void set_kick(std::function<void()> kick);
  unsigned index() const { return index_; }  // small, unique among the living

  // ---- the vCPU's own thread ----
  bool pending() const { return pending_.load(std::memory_order_relaxed); }
  // At a block head: does what was asked, and waits while another vCPU has stopped this one.
  void service();
  void enter_running();
  void leave_running();
  bool running() const { return running_.load(std::memory_order_relaxed); }

 private:
  friend class VcpuGroup;
  struct StaleCode {
    GuestPhys page;
    uint16_t first, last;
  };

  // With the group's mutex held.
  void request_locked();
  void enter_locked(std::unique_lock<std::mutex>& lock);

  VcpuGroup& group_;
  Coherent& coherent_;
  unsigned index_ = 0;
  std::function<void()> kick_;
  // Both seq_cst: whoever asks stores pending_ and loads running_, whoever enters stores running_ and loads
  // pending_, so one of them sees the other.
  std::atomic<bool> running_{false};
  std::atomic<bool> pending_{false};
  // Guarded by the group's mutex.
  bool drop_translations_ = false;
  bool drop_all_writes_ = false;
  std::vector<const std::byte*> drop_writes_;
  std::vector<StaleCode> stale_code_;
  uint64_t asked_ = 0, served_ = 0;  // requests that somebody waits for
};

class VcpuGroup {
 public:
  VcpuGroup();
  ~VcpuGroup();
  VcpuGroup(const VcpuGroup&) = delete;
  VcpuGroup& operator=(const VcpuGroup&) = delete;

  // These return when no running vCPU holds what is to be dropped any more. Any thread; a vCPU's own thread
  // counts as not running while it waits, and serves what others ask of it before it goes on.
  void drop_translations();                            // memory was removed
  void drop_write_access(const std::byte* host_page);  // code was found there; null: every page (dirty log)

  // Asks, without waiting.
  void post_stale_code(unsigned index, GuestPhys page, unsigned first, unsigned last);

  // Runs f on the calling vCPU's thread with every other vCPU out of guest code. The caller's own requests
  // have been served when f runs, so f translates addresses itself. What f throws passes through.
  // The caller is running afterwards.
  template <class F>
  void run_exclusive(Participant& self, F&& f) {
    struct Guard {
      VcpuGroup& group;
      ~Guard() { group.end_exclusive(); }
    };
    begin_exclusive(self);
    const Guard guard{*this};
    f();
  }

 private:
  friend class Participant;
  template <class Ask>
  void ask_all(Ask&& ask);
  // Until done(), which others make come true and notify of.
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, Done&& done);
  void begin_exclusive(Participant& self);
  void end_exclusive();
  void notify_if_waited();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<unsigned> waiting_{0};        // threads that wait for a participant to serve or to stop
  std::vector<Participant*> participants_;  // by index; null where one has left
  Participant* exclusive_ = nullptr;
};

}  // namespace ostler::mmu
