#include "devices/virtio/device.h"

#include <algorithm>

#include "base/assert.h"
#include "base/log.h"

namespace ostler::virtio {

// mutex_ and the locks of all queues.
class Device::AllLocks {
 public:
  explicit AllLocks(Device& device) : first_(device.mutex_) {
    if (!device.queue_mutexes_) return;
    for (unsigned i = 0; i < device.queue_count(); ++i) rest_.emplace_back(device.queue_mutexes_[i]);
  }

 private:
  const Lock first_;
  std::vector<Lock> rest_;
};

Device::Device(memory::AddressSpace& memory, std::string name, std::vector<uint16_t> queue_sizes,
               uint64_t withheld, Locking locking)
    : memory_(memory),
      name_(std::move(name)),
      queue_sizes_(std::move(queue_sizes)),
      withheld_(withheld),
      queue_mutexes_(locking == Locking::kPerQueue ? std::make_unique<std::mutex[]>(queue_sizes_.size())
                                                   : nullptr) {
  ASSERT(queue_sizes_.size() <= kMaxQueues, "device classes declare few queues");
}

Device::~Device() = default;

uint64_t Device::features() const {
  return (device_features() | feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_INDIRECT_DESC) |
          feature(VIRTIO_F_EVENT_IDX)) &
         ~withheld_;
}

void Device::read_config(uint64_t offset, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0});
  std::vector<std::byte> config;
  const Lock lock(mutex_);
  config_locked(config);
  if (offset >= config.size()) return;
  const size_t size = std::min<size_t>(to.size(), config.size() - offset);
  std::copy_n(config.begin() + static_cast<ptrdiff_t>(offset), size, to.begin());
}

void Device::write_config(uint64_t offset, std::span<const std::byte> from) {
  const Lock lock(mutex_);
  config_written_locked(offset, from);
}

void Device::make_queues(std::span<const QueueSetup> setups) {
  queues_.clear();
  queues_.resize(queue_sizes_.size());
  for (unsigned i = 0; i < queue_count(); ++i)
    if (setups[i].enabled) queues_[i].emplace(memory_, i, setups[i], driver_features_);
}

bool Device::activate(uint64_t features, std::span<const QueueSetup> setups) {
  for (unsigned i = 0; i < queue_count(); ++i) {
    if (!setups[i].enabled) continue;
    const auto fault = Queue::fault(memory_, setups[i], queue_max_size(i));
    if (fault.empty()) continue;
    log::guest_error("{}: queue {} cannot be used: {}", name_, i, fault);
    return false;
  }
  const AllLocks locks(*this);
  ASSERT(!running_, "the transport activates a device once between resets");
  driver_features_ = features;
  make_queues(setups);
  running_ = true;
  reported_ = false;
  started_locked();
  return true;
}

void Device::request_finished_locked() {
  if (in_flight_.fetch_sub(1) != 1) return;
  // Whoever waits has looked at the number, or will after us.
  const std::lock_guard lock(idle_mutex_);
  idle_.notify_all();
}

void Device::wait_until_idle() {
  std::unique_lock lock(idle_mutex_);
  idle_.wait(lock, [this] { return in_flight_ == 0; });
}

void Device::reset() {
  {
    const AllLocks locks(*this);
    running_ = false;
  }
  wait_until_idle();  // nothing begins while it does not run
  const AllLocks locks(*this);
  queues_.clear();
  driver_features_ = 0;
  stopped_locked();
}

void Device::quiesce() {
  wait_until_idle();
}

void Device::notify(unsigned queue) {
  if (queue >= queue_count()) return;
  Lock lock(queue_mutex(queue));
  if (!running_ || !queues_[queue]) return;
  // process() may let go of the lock: a reset that comes in between waits for it.
  request_started_locked();
  process(queue, lock);
  if (running_ && queues_[queue]) report_locked(*queues_[queue]);
  request_finished_locked();
}

void Device::signal_locked(Queue& queue) {
  if (!running_) return;
  if (queue.should_interrupt() && transport_ != nullptr) transport_->interrupt_queue(queue.index());
  report_locked(queue);
}

void Device::report_locked(const Queue& queue) {
  if (!queue.broken() || reported_.exchange(true)) return;
  if (transport_ != nullptr) transport_->needs_reset();
}

void Device::fail_locked(Queue& queue, std::string_view why) {
  queue.break_queue(why);
  report_locked(queue);
}

void Device::config_changed_locked() {
  config_generation_.fetch_add(1, std::memory_order_release);
  if (running_ && transport_ != nullptr) transport_->interrupt_config();
}

void Device::state(state::Archive& archive, bool is_running, uint64_t features,
                   std::span<const QueueSetup> setups) {
  if (archive.loading())
    reset();
  else
    quiesce();
  const AllLocks locks(*this);
  archive.section("virtio-device", 1);
  uint32_t generation = config_generation();
  archive.field("config_generation", generation);
  bool reported = reported_;
  archive.field("reported", reported);
  reported_ = reported;
  if (archive.loading()) {
    config_generation_.store(generation, std::memory_order_release);
    if (is_running) {
      for (unsigned i = 0; i < queue_count(); ++i)
        archive.check(!setups[i].enabled || Queue::misshapen(setups[i], queue_max_size(i)).empty(),
                      "queue setup");
      if (archive.failed()) return;
      driver_features_ = features;
      make_queues(setups);
      running_ = true;
    }
  }
  for (auto& queue : queues_)
    if (queue) queue->state(archive);
  device_state(archive);
  if (archive.loading() && running_ && !archive.failed()) loaded_locked();
}

}  // namespace ostler::virtio
