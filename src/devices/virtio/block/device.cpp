#include "devices/virtio/block/device.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::virtio::block {
namespace {

// §5.2.4, struct virtio_blk_config.
struct [[gnu::packed]] Config {
  uint64_t capacity;
  uint32_t size_max;
  uint32_t seg_max;
  uint16_t cylinders;
  uint8_t heads;
  uint8_t sectors;
  uint32_t blk_size;
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  uint16_t min_io_size;
  uint32_t opt_io_size;
  uint8_t writeback;
  uint8_t unused0;
  uint16_t num_queues;
  uint32_t max_discard_sectors;
  uint32_t max_discard_seg;
  uint32_t discard_sector_alignment;
  uint32_t max_write_zeroes_sectors;
  uint32_t max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
};
static_assert(sizeof(Config) == 60);

// Completed chains that the driver may wait for before it is told.
constexpr unsigned kBatch = 32;

std::vector<uint16_t> queue_sizes(const Options& options) {
  return std::vector<uint16_t>(options.num_queues.value_or(1), options.queue_size);
}

}  // namespace

// Whoever comes second, the submitter or the completion, finishes the request: so that a completion within
// submit() joins the batch, and a later one does not have to wait for the submitter.
struct BlockDevice::InFlight : Request {
  using Request::Request;
  std::atomic<bool> met{false};
  bool write_through = false;
  int keep = 0;  // the error for which it will be sent again; 0: it will not
};

BlockDevice::BlockDevice(memory::AddressSpace& memory,
                         std::vector<std::shared_ptr<ostler::block::Backend>> queues, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-blk" : options.id, queue_sizes(options),
             options.withheld_features(), Locking::kPerQueue),
      nodes_(std::move(queues)),
      node_(nodes_.front()),
      options_(options),
      states_(queue_count()) {
  writeback_ = initial_writeback();
  node_->on_resume([this] { send_kept_again(); });
  node_->on_resize([this] { capacity_changed(); });
}

BlockDevice::~BlockDevice() {
  node_->on_resume({});
  node_->on_resize({});
  reset();
}

uint64_t BlockDevice::device_features() const {
  uint64_t bits = feature(VIRTIO_BLK_F_SEG_MAX) | feature(VIRTIO_BLK_F_BLK_SIZE) |
                  feature(VIRTIO_BLK_F_FLUSH) | feature(VIRTIO_BLK_F_TOPOLOGY);
  if (options_.config_wce) bits |= feature(VIRTIO_BLK_F_CONFIG_WCE);
  if (queue_count() > 1) bits |= feature(VIRTIO_BLK_F_MQ);
  if (node_->read_only()) return bits | feature(VIRTIO_BLK_F_RO);
  if (options_.discard) bits |= feature(VIRTIO_BLK_F_DISCARD);
  if (options_.write_zeroes) bits |= feature(VIRTIO_BLK_F_WRITE_ZEROES);
  return bits;
}

void BlockDevice::config_locked(std::vector<std::byte>& bytes) {
  Config config = {};
  config.capacity = node_->size() / kSector;
  // Header and status take a descriptor each.
  config.seg_max = std::min<uint32_t>(queue_max_size(0), Chain::kMaxSegments) - 2u;
  config.blk_size = options_.logical_block_size;
  config.physical_block_exp = static_cast<uint8_t>(std::max(
      0, std::countr_zero(options_.physical_block_size) - std::countr_zero(options_.logical_block_size)));
  config.min_io_size = static_cast<uint16_t>(options_.min_io_size / options_.logical_block_size);
  config.opt_io_size = options_.opt_io_size / options_.logical_block_size;
  config.writeback = writeback_ ? 1 : 0;
  config.num_queues = static_cast<uint16_t>(queue_count());
  const uint32_t granularity = options_.discard_granularity == 0 ? 4096u : options_.discard_granularity;
  const uint32_t alignment = std::max(options_.logical_block_size, granularity) / uint32_t{kSector};
  config.max_discard_sectors = options_.max_discard_sectors;
  config.max_write_zeroes_sectors = options_.max_write_zeroes_sectors;
  config.max_discard_seg = config.max_write_zeroes_seg = kMaxRangeSegments;
  config.discard_sector_alignment = alignment;
  config.write_zeroes_may_unmap = 1;
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

void BlockDevice::config_written_locked(uint64_t offset, std::span<const std::byte> from) {
  // §3.1.2: a legacy driver may write before it has told its features.
  const bool allowed =
      has_feature(VIRTIO_BLK_F_CONFIG_WCE) || (legacy_driver() && !running() && options_.config_wce);
  if (offset != offsetof(Config, writeback) || from.size() != 1 || !allowed) {
    log::guest_error("{}: configuration written at {:#x}", name(), offset);
    return;
  }
  writeback_ = (std::to_integer<unsigned>(from[0]) & 1) != 0;
}

// §5.2.5.2: without FLUSH, or with the cache off, a completed write is stable.
bool BlockDevice::write_through() const {
  return !has_feature(VIRTIO_BLK_F_FLUSH) || !writeback_;
}

void BlockDevice::stopped_locked() {
  writeback_ = initial_writeback();
  for (QueueState& state : states_) state = {};
}

void BlockDevice::queue_stopped_locked(unsigned index) {
  states_[index] = {};
}

void BlockDevice::capacity_changed() {
  const Lock lock(mutex_);
  config_changed_locked();
}

void BlockDevice::process(unsigned index, Lock& lock) {
  Queue& queue = *this->queue(index);
  // A driver that keeps adding must not keep this thread for ever.
  process_some(queue, lock, 2u * queue.size());
}

void BlockDevice::process_some(Queue& queue, Lock& lock, unsigned most) {
  const unsigned index = queue.index();
  QueueState& state = states_[index];
  queue.set_notifications(false);
  unsigned unsignalled = 0;
  for (unsigned taken = 0;; ++taken) {
    if (state.in_flight >= queue.size()) {
      state.stalled = true;
      break;
    }
    if (taken == most) {
      resume_later_locked(index);
      break;
    }
    auto chain = queue.pop();
    if (!chain) {
      queue.set_notifications(true);
      if (queue.empty()) break;
      queue.set_notifications(false);
      continue;
    }
    auto request = std::make_shared<InFlight>(*std::move(chain), index);
    const Limits limits{node_->size(), node_->read_only(), options_.discard, options_.write_zeroes};
    if (!request->parse(queue.dma(), limits)) {
      fail_locked(queue, "a virtio-blk request without header or status");
      break;
    }
    request->write_through = write_through();
    ++state.in_flight;
    if (start(request, lock)) ++unsignalled;
    if (!running()) return;  // reset meanwhile: `queue` is gone
    if (unsignalled == kBatch) {
      signal_locked(queue);
      unsignalled = 0;
    }
  }
  if (unsignalled != 0) signal_locked(queue);
}

bool BlockDevice::start(const std::shared_ptr<InFlight>& request, Lock& lock) {
  request_started_locked(request->queue);
  lock.unlock();
  submit(request);
  const bool completed = request->met.exchange(true);
  lock.lock();
  return completed && complete_locked(request);
}

void BlockDevice::resume_later_locked(unsigned index) {
  request_started_locked(index);  // reset waits for it
  node(index).defer([this, index] {
    Lock lock(queue_mutex(index));
    if (running()) process_some(*queue(index), lock, 2u * queue(index)->size());
    request_finished_locked(index);
  });
}

void BlockDevice::submit(const std::shared_ptr<InFlight>& request) {
  if (request->status != Status::kOk) return done(request, 0);
  ostler::block::Backend& node = this->node(request->queue);
  switch (request->type) {
    case RequestType::kIn:
      node.read(request->offset, request->mapping.spans,
                [this, request](int error) { done(request, error); });
      return;
    case RequestType::kOut:
      node.write(request->offset, request->mapping.spans, [this, request](int error) {
        if (error != 0 || !request->write_through) return done(request, error);
        this->node(request->queue).flush([this, request](int flush_error) { done(request, flush_error); });
      });
      return;
    case RequestType::kFlush:
      node.flush([this, request](int error) { done(request, error); });
      return;
    case RequestType::kDiscard:
    case RequestType::kWriteZeroes:
      submit_ranges(request, 0);
      return;
    case RequestType::kGetId:
      done(request, 0);
      return;
  }
}

// One range after the other.
void BlockDevice::submit_ranges(const std::shared_ptr<InFlight>& request, int error) {
  if (error != 0) return done(request, error);
  if (request->next_range == request->ranges.size()) {
    if (!request->write_through) return done(request, 0);
    this->node(request->queue).flush([this, request](int flush_error) { done(request, flush_error); });
    return;
  }
  ostler::block::Backend& node = this->node(request->queue);
  const RangeSegment& range = request->ranges[request->next_range++];
  const uint64_t offset = range.sector * kSector, length = range.sectors * kSector;
  if (length == 0) return submit_ranges(request, 0);
  auto next = [this, request](int range_error) { submit_ranges(request, range_error); };
  if (request->type == RequestType::kDiscard)
    node.discard(offset, length, std::move(next));
  else
    node.write_zeroes(offset, length, (range.flags & kRangeUnmap) != 0, std::move(next));
}

void BlockDevice::done(const std::shared_ptr<InFlight>& request, int error) {
  using ostler::block::Verdict;
  if (error != 0) {
    log::trace(log::Subject::kDevices, "{}: request failed with errno {}", name(), error);
    const Verdict verdict = node(request->queue).judge(request->type == RequestType::kIn, error);
    if (verdict == Verdict::kReport) request->status = Status::kIoError;
    if (verdict == Verdict::kKeep) request->keep = error;
  }
  if (!request->met.exchange(true)) return;  // submit() has not returned: its caller goes on
  const unsigned index = request->queue;
  Lock lock(queue_mutex(index));
  request_started_locked(index);  // the queue stays while the lock is let go
  const bool answered = complete_locked(request);
  QueueState& state = states_[index];
  if (running() && answered && state.stalled) {
    state.stalled = false;
    process_some(*queue(index), lock, 2u * queue(index)->size());
  }
  if (running() && answered) signal_locked(*queue(index));
  request_finished_locked(index);
}

bool BlockDevice::complete_locked(const std::shared_ptr<InFlight>& request) {
  bool answered = false;
  if (running() && request->keep != 0) {
    states_[request->queue].kept.push_back(request);
    // After it is in the list: the guest may go on at once.
    node(request->queue).pause_guest(request->keep);
  } else if (running()) {
    --states_[request->queue].in_flight;
    answer_locked(*request);
    answered = true;
  }
  request_finished_locked(request->queue);
  return answered;
}

// On the machine's thread.
void BlockDevice::send_kept_again() {
  for (unsigned index = 0; index < queue_count(); ++index) {
    Lock lock(queue_mutex(index));
    const auto kept = std::exchange(states_[index].kept, {});
    if (kept.empty()) continue;
    request_started_locked(index);  // the queue stays while the lock is let go
    bool answered = false;
    for (const auto& request : kept) {
      if (!running()) break;  // reset: they are forgotten
      request->met = false;
      request->keep = 0;
      request->next_range = 0;
      answered = start(request, lock) || answered;
    }
    if (running() && answered) {
      QueueState& state = states_[index];
      if (std::exchange(state.stalled, false)) process_some(*queue(index), lock, 2u * queue(index)->size());
      if (running()) signal_locked(*queue(index));
    }
    request_finished_locked(index);
  }
}

void BlockDevice::answer_locked(Request& request) {
  Queue& queue = *this->queue(request.queue);
  Chain& chain = request.chain;
  memory::Dma& dma = queue.dma();
  if (request.type == RequestType::kIn && request.status == Status::kOk)
    dma.written(request.mapping, request.data_bytes);
  if (request.type == RequestType::kGetId && request.status == Status::kOk) {
    std::array<char, kIdBytes> id{};
    std::copy_n(options_.serial.begin(), std::min<size_t>(options_.serial.size(), id.size()), id.begin());
    chain.write_object(dma, 0, id);
  }
  const uint64_t total = chain.writable_bytes();
  if (!chain.write_object(dma, total - 1, request.status))
    return fail_locked(queue, "a status byte outside RAM");
  queue.push(std::move(chain), static_cast<uint32_t>(total));
}

void BlockDevice::device_state(state::Archive& archive) {
  archive.section("virtio-blk", 3);
  bool writeback = writeback_;
  archive.field("writeback", writeback);
  writeback_ = writeback;
  uint64_t size = node_->size();
  archive.field("size", size);
  archive.check(size == node_->size(), "size of the disk");
  if (archive.version() < 3) return;
  for (unsigned index = 0; index < queue_count(); ++index) {
    QueueState& state = states_[index];
    state.records.clear();
    for (const auto& request : state.kept) state.records.push_back(request->chain.record());
    uint16_t count = static_cast<uint16_t>(state.records.size());
    archive.field("kept", count);
    archive.check(count <= queue_max_size(index), "kept");
    if (archive.failed()) return;
    state.records.resize(count);
    for (ChainRecord& record : state.records) record.state(archive);
  }
}

void BlockDevice::loaded_locked() {
  for (unsigned index = 0; index < queue_count(); ++index) {
    QueueState& state = states_[index];
    Queue* const queue = this->queue(index);
    for (const ChainRecord& record : std::exchange(state.records, {})) {
      auto chain = queue != nullptr ? queue->take_again(record) : std::nullopt;
      if (!chain) break;
      auto request = std::make_shared<InFlight>(*std::move(chain), index);
      const Limits limits{node_->size(), node_->read_only(), options_.discard, options_.write_zeroes};
      if (!request->parse(queue->dma(), limits)) {
        fail_locked(*queue, "a kept virtio-blk request without header or status");
        break;
      }
      request->write_through = write_through();
      ++state.in_flight;
      state.kept.push_back(std::move(request));
    }
  }
}

}  // namespace ostler::virtio::block
