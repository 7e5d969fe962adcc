// A virtio device without its transport (Virtio 1.2 §2): features, configuration space, queues, life cycle.
//
//                 activate(features, queues)              reset()
//     stopped ────────────────────────────────> running ──────────> stopped
//                                                 │ broken queue: DEVICE_NEEDS_RESET, serves nothing until
//                                                 reset()
//
// Threads: the transport calls on vCPU threads, back ends on theirs. One lock, mutex_, guards queues and the
// device's state; hooks named *_locked are called with it held. A device whose queues run at the same time
// (Locking::kPerQueue) has a lock for each queue instead, which guards that queue and what belongs to it;
// then mutex_ guards the configuration, and what is common changes only with all of them held. Lock order:
// transport registers -> mutex_ -> queues' locks, by number -> (MSI-X, interrupt lines). notify() is called
// without the transport's register lock, so a request that is served at once delays nobody's registers.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/features.h"
#include "devices/virtio/queue.h"
#include "event/loop.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::virtio {

// What a device asks of its transport: any thread, with the device's lock held.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual void interrupt_queue(unsigned queue) = 0;
  virtual void interrupt_config() = 0;
  // Sets DEVICE_NEEDS_RESET and tells the driver (§2.1.2).
  virtual void needs_reset() = 0;

  // Interrupts that another process causes, by signals of an eventfd, and that need nobody here: the host's
  // kernel sends the queue's message. Whether that can be for `queue`, as its driver has set interrupts up;
  // Device::interrupts_changed() tells of changes.
  virtual bool can_lend_interrupt(unsigned /*queue*/) const { return false; }
  struct LentInterrupt {
    unsigned queue;
    int fd;  // does not block, open until it is taken back
    bool lent = false;
  };
  // Whatever was and is signalled interrupts as interrupt_queue() does, from now on, where `lent` is true
  // afterwards: the kernel may have no room. A queue is lent once.
  virtual void lend_interrupts(std::span<LentInterrupt> /*each*/) {}
  // What was signalled and not yet sent stays in the eventfd.
  virtual void take_interrupt_back(unsigned /*queue*/) {}
};

class Device {
 public:
  static constexpr uint16_t kMaxQueueSize = 1024;
  static constexpr unsigned kMaxQueues = 64;
  enum class Locking { kOneLock, kPerQueue };

  // `queue_sizes`: the largest size of each queue, powers of two.
  // `withheld`: transport-independent features that are not offered.
  Device(memory::AddressSpace& memory, std::string name, std::vector<uint16_t> queue_sizes,
         uint64_t withheld = 0, Locking locking = Locking::kOneLock);
  virtual ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  virtual uint16_t type() const = 0;
  // All that is offered, the transport-independent bits included.
  uint64_t features() const;
  unsigned queue_count() const { return static_cast<unsigned>(queue_sizes_.size()); }
  uint16_t queue_max_size(unsigned queue) const { return queue_sizes_[queue]; }
  memory::AddressSpace& memory() const { return memory_; }

  // Once, before the guest runs.
  void connect(Transport& transport) { transport_ = &transport; }
  // The same: what one call leaves in a queue is served on this loop's thread, which destroys the device or
  // has ended before. Without a loop it waits for the queue's next notification: for a driver of one thread,
  // which cannot add while it is served.
  void serve_rest_on(event::Loop& loop) { loop_ = &loop; }

  // What Transport::can_lend_interrupt() says of all queues may have changed. Any thread; takes no locks of
  // the device.
  virtual void interrupts_changed() {}

  uint64_t config_size();  // bytes
  // The device-specific configuration (§2.5). Bytes past its end read as 0, writes there are ignored.
  void read_config(uint64_t offset, std::span<std::byte> to);
  void write_config(uint64_t offset, std::span<const std::byte> from);
  uint32_t config_generation() const { return config_generation_.load(std::memory_order_acquire); }

  // The driver uses the interface of virtio 0.9.5; until the next reset().
  void set_legacy_driver();
  // DRIVER_OK: the driver accepted `features`. False when a queue's setup cannot be used.
  bool activate(uint64_t features, std::span<const QueueSetup> setups);
  // Afterwards no request touches guest memory and no interrupt comes. Waits for requests in flight.
  void reset();
  // The driver made buffers available. Ignored unless running.
  void notify(unsigned queue);
  // One queue, of a device that runs with RING_RESET (§2.6.1): afterwards none of its requests touches guest
  // memory.
  void reset_queue(unsigned queue);
  void enable_queue(unsigned queue, const QueueSetup& setup);
  // How often the driver broke the rules so that DEVICE_NEEDS_RESET was set. Any thread.
  uint64_t failures() const { return failures_.load(); }
  // Waits until no request is in flight. vCPUs do not run meanwhile.
  void quiesce();

  // Called by the transport's state(), after its own registers. On load with `running`, `setups` as they
  // were.
  void state(state::Archive& archive, bool running, uint64_t features, std::span<const QueueSetup> setups);

 protected:
  using Lock = std::unique_lock<std::mutex>;

  virtual uint64_t device_features() const = 0;
  // At most 256 bytes, as they are now.
  virtual void config_locked(std::vector<std::byte>& config) = 0;
  virtual void config_written_locked(uint64_t /*offset*/, std::span<const std::byte> /*from*/) {}
  virtual void started_locked() {}
  // Serve `queue`, with its lock held. May release and retake `lock`, and must stop when running() is false
  // after that; the queues stay in place until it returns.
  virtual void process(unsigned queue, Lock& lock) = 0;
  // Before reset() or reset_queue() waits for the queue's requests in flight: a device whose requests can be
  // given up reports them finished here, and they touch neither queue nor guest memory any more.
  virtual void abandon_locked(unsigned /*queue*/) {}
  virtual void stopped_locked() {}                          // after reset: queues are gone
  virtual void queue_stopped_locked(unsigned /*queue*/) {}  // after its reset: it is gone
  virtual void device_state(state::Archive& archive) = 0;
  virtual void loaded_locked() {}  // after a load, running
  // No request is in flight, and none may touch guest memory until the event loop runs again.
  virtual void quiesced_locked() {}

  bool running() const { return running_; }
  bool legacy_driver() const { return legacy_driver_; }
  uint64_t driver_features() const { return driver_features_; }
  bool has_feature(unsigned bit) const { return (driver_features_ & feature(bit)) != 0; }
  // Null when the driver did not enable it. Running only.
  Queue* queue(unsigned index) { return queues_[index] ? &*queues_[index] : nullptr; }
  // Tells the driver if it wants to know; reports a broken queue. After one or several pushes.
  void signal_locked(Queue& queue);
  // Null for a device that is not connected.
  Transport* transport() const { return transport_; }
  void config_changed_locked();
  // Hands chains to `serve`, which takes a Chain&& and returns whether to go on. At most two rounds of the
  // ring: a driver that keeps adding costs its own time, and no more of it than its share.
  template <class Serve>
  void serve_chains_locked(Queue& queue, Serve&& serve) {
    for (unsigned left = 2u * queue.size(); left != 0; --left) {
      auto chain = queue.pop();
      if (!chain || !serve(*std::move(chain))) return;
    }
    serve_rest_locked(queue);
  }
  // Somebody else takes what is left, when anything is.
  void serve_rest_locked(Queue& queue);
  // The driver broke the device's own rules.
  void fail_locked(Queue& queue, std::string_view why);

  // Requests that outlive process(): reset() and quiesce() wait for them. With the queue's lock held.
  void request_started_locked(unsigned queue) { in_flight_[queue].fetch_add(1); }
  void request_finished_locked(unsigned queue);

  std::mutex& queue_mutex(unsigned index) { return queue_mutexes_ ? queue_mutexes_[index] : mutex_; }
  std::mutex mutex_;

 private:
  class AllLocks;
  void wait_until_idle();
  void wait_until_idle(unsigned queue);
  // Waits until the queues [first, end) have no request in flight, and keeps it so.
  std::unique_ptr<AllLocks> lock_idle(unsigned first, unsigned end);
  void need_reset(std::string_view why);
  void report_locked(const Queue& queue);
  void make_queues(std::span<const QueueSetup> setups);
  void post_locked(unsigned queue);
  void serve_posted(unsigned queue);

  memory::AddressSpace& memory_;
  const std::string name_;
  const std::vector<uint16_t> queue_sizes_;
  const uint64_t withheld_;
  Transport* transport_ = nullptr;
  event::Loop* loop_ = nullptr;
  std::atomic<uint32_t> config_generation_{0};
  const std::unique_ptr<std::mutex[]> queue_mutexes_;  // null: mutex_ is that of all queues
  std::atomic<bool> reported_{false};                  // DEVICE_NEEDS_RESET was set since activate()
  // Changed with all locks held.
  bool running_ = false;
  bool legacy_driver_ = false;
  uint64_t driver_features_ = 0;
  std::vector<std::optional<Queue>> queues_;
  std::array<std::atomic<unsigned>, kMaxQueues> in_flight_{};
  std::array<bool, kMaxQueues> posted_{};                   // each guarded by its queue's lock
  std::shared_ptr<char> alive_ = std::make_shared<char>();  // tasks that outlive the device do nothing
  std::atomic<uint64_t> failures_{0};
  std::mutex idle_mutex_;  // below all others
  std::condition_variable idle_;
};

}  // namespace ostler::virtio
