// A virtio device whose work is done by somebody else, the back end: another process that maps the guest's
// memory (vhost-user), or the host's kernel (vhost-net). The guest sees our queues; the back end serves a
// shadow of each (shadow_ring.h).
//
//     guest's ring ──pop──> Chain ──add──> shadow ring ──kick──> back end
//     guest's ring <─push── Chain <─take── shadow ring <─call── back end
//
// Where the host's kernel can send the queue's interrupt by the back end's call
// (Transport::can_lend_interrupt) the guest's used ring is lent to the back end, which then tells the guest
// without us; what was used is collected with the next requests:
//
//     guest's ring ──pop──> Chain ──add──> shadow ring ──kick──> back end
//     guest's used ring <──────────────── used ───────────────── back end ──call──> KVM ──> interrupt
//
// Not while MSI-X is off or the kernel has no room: then the call comes to us, and we interrupt.
//
// A back end that dies, lies or does not answer in time loses its connection; the device goes on. Without a
// back end each request is refused in the device's own way, or kept for the next back end.
//
// Threads: messages are sent by whoever has the device's lock, which may wait for Channel::kPatience once;
// the back end's calls and its end come on the event loop's thread. A new back end is negotiated with on a
// thread of its own, without the lock (meeting.h).
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "devices/virtio/device.h"
#include "devices/virtio/vhost_user/address.h"
#include "devices/virtio/vhost_user/meeting.h"
#include "devices/virtio/vhost_user/memory_table.h"
#include "devices/virtio/vhost_user/session.h"
#include "devices/virtio/vhost_user/shadow_ring.h"
#include "event/acceptor.h"
#include "event/loop.h"

namespace ostler::virtio::vhost_user {

class VhostUserDevice : public Device {
 public:
  // Whether there is a back end now. Any thread.
  bool connected();

 protected:
  // What a device is made of that is there before it: descriptors, shared memory.
  struct Parts {
    Address address;
    std::unique_ptr<Session> session;
    std::shared_ptr<memory::RamBlock> rings;
    std::vector<Fd> kicks, calls;
    Fd wake;
    uint64_t least_queues = 0;
  };
  // Connects. Errors: one sentence about the back end, as of those that follow.
  static Result<Parts> meet(const Address& address);
  // Checks that the back end tells of at least `least` queues (or pairs of them: what it counts). `rings`:
  // how many of the device's queues it serves, the first ones.
  static Result<void> add_rings(Parts& parts, unsigned rings, uint64_t least);
  static Result<Parts> prepare(const Address& address, unsigned rings, uint64_t least);  // both

  // On the loop's thread or before it runs, as the destructor.
  VhostUserDevice(memory::AddressSpace& memory, event::Loop& loop, std::string name,
                  std::vector<uint16_t> queue_sizes, uint64_t withheld, Parts parts);
  ~VhostUserDevice() override;

  // In each device's destructor, in place of reset(): a back end that hangs is not waited for, the connection
  // just ends.
  void leave();

  // Features of the back end that the device's driver or we use; VIRTIO_F_VERSION_1 comes by
  // itself.
  virtual uint64_t back_end_features() const { return 0; }
  // Whether requests have the form of VIRTIO_F_VERSION_1.
  virtual bool modern_requests() const { return true; }
  // Answers a request that no back end will: pushes `chain`.
  virtual void refuse_locked(Queue& queue, Chain chain) = 0;
  // Whether requests wait for the next back end instead.
  virtual bool keeps_requests(unsigned /*queue*/) const { return false; }
  // Whether the back end has the queue; others are served by serve_locked().
  virtual bool has_ring(unsigned queue) const { return queue < rings_.size(); }
  virtual void serve_locked(Queue& /*queue*/) {}
  // Whether the back end gets requests now, and whether it works on those of one queue; after a change:
  // update_rings_locked().
  virtual bool wants_rings() const { return true; }
  virtual bool enables_ring(unsigned /*queue*/) const { return true; }
  void update_rings_locked();
  // It was lost, or there is a new one, and the rings run.
  virtual void connection_changed_locked() {}
  bool reconnects() const { return address_.reconnects(); }
  // How much of its configuration a new back end is asked for.
  virtual uint32_t wanted_config() const { return 0; }
  // A new back end is there, before it serves anything; `config`: as it told, or empty. An error sends it
  // away.
  virtual Result<void> accept_locked(Session&, std::vector<std::byte> /*config*/) { return {}; }
  Session* session_locked() { return session_ != nullptr && session_->alive() ? session_.get() : nullptr; }
  // The back end says that its configuration has changed. An error loses it. On the loop's thread.
  virtual Result<void> config_told_locked(Session&) { return {}; }
  // The back end broke the rules, or does not answer.
  void lose_locked(const std::string& why);

  void started_locked() override;
  void stopped_locked() override;
  void queue_stopped_locked(unsigned queue) override;
  void process(unsigned queue, Lock& lock) override;
  void interrupts_changed() override;
  void loaded_locked() override;
  void quiesced_locked() override;
  // The requests that a back end had; part of a device's state.
  void rings_state(state::Archive& archive);
  // On the loop's thread, some time after a load, when there is a back end.
  virtual void restored_locked() {}

 private:
  struct Ring {
    Fd kick, call;
    std::unique_ptr<ShadowRing> shadow;
    bool started = false, enabled = false;
    bool watched = true;               // `call`, by the loop: on its thread alone
    bool kernels = false;              // `call` is lent to the transport; not while it is watched
    bool crowded = false;              // chains wait for room, of which only calls tell
    GuestPhys used{};                  // the guest's used ring, while it is lent
    std::deque<Chain> kept;            // before those in the queue
    std::vector<ChainRecord> records;  // between a load and loaded_locked()
  };
  Result<void> set_up_locked();
  void set_up_and_submit_locked();
  Result<void> share_memory_locked();
  Result<void> start_ring_locked(unsigned index);
  enum class Rest { kAsUsual, kKeep };
  void halt_ring_locked(unsigned index, Rest rest);
  void dispose_locked(unsigned index, Rest rest);
  void refuse_kept_locked(unsigned index);
  void submit_locked(unsigned index);
  void refuse_all_locked(unsigned index);
  ShadowRing::Lent lend_used_locked(unsigned index);
  bool follow_used_ring_locked(unsigned index);
  void move_calls_locked();
  void take_call_back_locked(unsigned index);
  void watch_call(unsigned index);
  void collect(unsigned index);
  void collect_locked(unsigned index);
  void take_used_locked(unsigned index);
  void watch();
  void unwatch_own_requests();
  void hear_back_end();
  void hung_up();
  void go_on();
  void look_for_another();
  void reconnect();
  void meet_new(Result<Meeting::Met> met);

  event::Loop& loop_;
  const Address address_;
  const uint64_t least_queues_;
  std::shared_ptr<memory::RamBlock> rings_memory_;
  const Fd wake_;  // for go_on()
  // Guarded by mutex_.
  std::unique_ptr<Session> session_;
  bool restored_ = false;
  int watched_requests_ = -1;  // the loop's thread: of session_->back_end_fd()
  std::vector<Ring> rings_;
  memory::AddressSpace::Reader reader_;
  std::shared_ptr<const memory::FlatView> shared_view_;  // that table_ was made of
  MemoryTable table_;
  Meeting meeting_;           // while there is no session
  event::Acceptor acceptor_;  // of address_.listener, while there is neither
  event::HostTimer timer_;    // last: its destructor waits for the callback
};

}  // namespace ostler::virtio::vhost_user
