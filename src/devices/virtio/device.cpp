#include "devices/virtio/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/assert.h"
#include "base/log.h"

namespace ostler::virtio {

namespace {

constexpr uint64_t kTransportFeatures = feature(VIRTIO_F_INDIRECT_DESC) | feature(VIRTIO_F_EVENT_IDX) |
                                        feature(VIRTIO_F_ACCESS_PLATFORM) | feature(VIRTIO_F_RING_PACKED) |
                                        feature(VIRTIO_F_IN_ORDER) | feature(VIRTIO_F_NOTIFICATION_DATA) |
                                        feature(VIRTIO_F_RING_RESET);

// At most one line a second for all devices: a guest must not fill the host's disk.
void warn_of_guest(const std::string& device, std::string_view why) {
  static std::atomic<int64_t> last{-1};
  static std::atomic<unsigned> untold{0};
  const int64_t now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
  int64_t before = last.load();
  if (before == now || !last.compare_exchange_strong(before, now)) {
    untold.fetch_add(1);
    return;
  }
  const unsigned more = untold.exchange(0);
  log::warning(
      fmt::format("{}: the guest's driver broke a rule of virtio ({}); the device serves nothing until "
                  "the guest resets it{}",
                  device, why, more == 0 ? "" : fmt::format("; {} more such events", more)));
}

}  // namespace

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
  return (device_features() | feature(VIRTIO_F_VERSION_1) | kTransportFeatures) & ~withheld_;
}

uint64_t Device::config_size() {
  std::vector<std::byte> config;
  const Lock lock(mutex_);
  config_locked(config);
  return config.size();
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

void Device::set_legacy_driver() {
  const AllLocks locks(*this);
  legacy_driver_ = true;
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
    const auto fault = Queue::fault(memory_, setups[i], queue_max_size(i), features);
    if (fault.empty()) continue;
    log::guest_error("{}: queue {} cannot be used: {}", name_, i, fault);
    failures_.fetch_add(1);
    warn_of_guest(name_, fault);
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

void Device::request_finished_locked(unsigned queue) {
  if (in_flight_[queue].fetch_sub(1) != 1) return;
  // Whoever waits has looked at the number, or will after us.
  const std::lock_guard lock(idle_mutex_);
  idle_.notify_all();
}

void Device::wait_until_idle(unsigned queue) {
  std::unique_lock lock(idle_mutex_);
  idle_.wait(lock, [this, queue] { return in_flight_[queue] == 0; });
}

void Device::wait_until_idle() {
  for (unsigned i = 0; i < queue_count(); ++i) wait_until_idle(i);
}

// Whoever sends kept requests again may begin after they were found idle, until the locks are held.
std::unique_ptr<Device::AllLocks> Device::lock_idle(unsigned first, unsigned end) {
  for (;;) {
    for (unsigned i = first; i < end; ++i) wait_until_idle(i);
    auto locks = std::make_unique<AllLocks>(*this);
    const auto from = in_flight_.begin();
    if (std::all_of(from + first, from + end, [](const auto& each) { return each == 0; })) return locks;
  }
}

void Device::reset() {
  {
    const AllLocks locks(*this);
    running_ = false;
    for (unsigned i = 0; i < queue_count(); ++i) abandon_locked(i);
  }
  const auto locks = lock_idle(0, queue_count());
  queues_.clear();
  driver_features_ = 0;
  legacy_driver_ = false;
  stopped_locked();
}

void Device::reset_queue(unsigned index) {
  {
    const Lock lock(queue_mutex(index));
    if (!running_ || !queues_[index]) return;
    queues_[index]->close();
    abandon_locked(index);
  }
  const auto locks = lock_idle(index, index + 1);
  queues_[index].reset();
  queue_stopped_locked(index);
}

void Device::enable_queue(unsigned index, const QueueSetup& setup) {
  const AllLocks locks(*this);
  if (!running_ || queues_[index]) return;
  const auto fault = Queue::fault(memory_, setup, queue_max_size(index), driver_features_);
  if (fault.empty()) {
    queues_[index].emplace(memory_, index, setup, driver_features_);
    return;
  }
  log::guest_error("{}: queue {} cannot be used: {}", name_, index, fault);
  need_reset(fault);
}

void Device::quiesce() {
  wait_until_idle();
  const AllLocks locks(*this);
  quiesced_locked();
}

void Device::notify(unsigned queue) {
  if (queue >= queue_count()) return;
  Lock lock(queue_mutex(queue));
  if (!running_ || !queues_[queue]) return;
  // process() may let go of the lock: a reset that comes in between waits for it.
  request_started_locked(queue);
  process(queue, lock);
  if (running_ && queues_[queue]) report_locked(*queues_[queue]);
  request_finished_locked(queue);
}

// The driver was told to notify when it adds to what we have seen: had it added before it could read that, it
// would not, and its buffers would lie there.
void Device::serve_rest_locked(Queue& queue) {
  if (!queue.empty()) post_locked(queue.index());
}

void Device::post_locked(unsigned queue) {
  if (loop_ == nullptr || posted_[queue]) return;
  posted_[queue] = true;
  loop_->post([this, queue, weak = std::weak_ptr<char>(alive_)] {
    if (!weak.expired()) serve_posted(queue);
  });
}

void Device::serve_posted(unsigned queue) {
  {
    const Lock lock(queue_mutex(queue));
    posted_[queue] = false;
  }
  notify(queue);
}

void Device::signal_locked(Queue& queue) {
  if (!running_) return;
  if (queue.should_interrupt() && transport_ != nullptr) transport_->interrupt_queue(queue.index());
  report_locked(queue);
}

void Device::report_locked(const Queue& queue) {
  if (queue.broken()) need_reset(queue.fault());
}

void Device::need_reset(std::string_view why) {
  if (reported_.exchange(true)) return;
  failures_.fetch_add(1);
  warn_of_guest(name_, why);
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
        archive.check(!setups[i].enabled || Queue::misshapen(setups[i], queue_max_size(i), features).empty(),
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
  if (!archive.loading() || !running_ || archive.failed()) return;
  loaded_locked();
  // Whoever saved the state may have had the rest of a queue to serve.
  for (unsigned i = 0; i < queue_count(); ++i)
    if (queues_[i]) post_locked(i);
}

}  // namespace ostler::virtio
