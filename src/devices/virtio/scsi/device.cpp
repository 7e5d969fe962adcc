// The request queues.
#include "devices/virtio/scsi/device.h"

#include <algorithm>
#include <tuple>

#include "base/log.h"
#include "devices/virtio/config_field.h"
#include "devices/virtio/scsi/in_flight.h"

namespace ostler::virtio::scsi {
namespace {

// Completed chains that the driver may wait for before it is told.
constexpr unsigned kBatch = 32;
// Of sense data; a guest that asks for more gets no more of it.
constexpr uint32_t kMostSenseBytes = 1024, kMostCdbBytes = 255;

std::vector<uint16_t> queue_sizes(const Options& options) {
  return std::vector<uint16_t>(kFirstRequestQueue + options.num_queues.value_or(1), options.queue_size);
}

}  // namespace

ScsiDevice::ScsiDevice(memory::AddressSpace& memory, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-scsi" : options.id, queue_sizes(options),
             options.withheld_features(), Locking::kPerQueue),
      options_(options),
      states_(queue_count()) {}

ScsiDevice::~ScsiDevice() {
  reset();
  for (auto& [where, place] : units_) place.unit->connect(nullptr);
}

uint64_t ScsiDevice::device_features() const {
  return (options_.hotplug ? feature(VIRTIO_SCSI_F_HOTPLUG) : 0) |
         (options_.param_change ? feature(VIRTIO_SCSI_F_CHANGE) : 0);
}

void ScsiDevice::config_locked(std::vector<std::byte>& bytes) {
  Config config = {};
  config.num_queues = queue_count() - kFirstRequestQueue;
  // The two headers take a descriptor each.
  config.seg_max = std::min<uint32_t>(queue_max_size(kFirstRequestQueue), Chain::kMaxSegments) - 2u;
  config.max_sectors = options_.max_sectors;
  config.cmd_per_lun = std::min<uint32_t>(options_.cmd_per_lun, queue_max_size(kFirstRequestQueue));
  config.event_info_size = sizeof(Event);
  config.sense_size = sense_bytes_;
  config.cdb_size = cdb_bytes_;
  config.max_target = kMaxTarget;
  config.max_lun = kMaxLun;
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

// §5.6.4.1: the driver sets the sizes of command blocks and sense data, before it sets DRIVER_OK.
void ScsiDevice::config_written_locked(uint64_t offset, std::span<const std::byte> from) {
  for (const auto& [field, place, most] :
       {std::tuple{offsetof(Config, sense_size), &sense_bytes_, kMostSenseBytes},
        std::tuple{offsetof(Config, cdb_size), &cdb_bytes_, kMostCdbBytes}}) {
    uint32_t value = *place;
    if (running() || !write_config_field(offset, from, field, value) || value > most) continue;
    *place = value;
    return;
  }
  log::guest_error("{}: configuration written at {:#x}", name(), offset);
}

bool ScsiDevice::add(uint8_t target, uint16_t lun, Unit unit) {
  unit->connect(this);
  {
    const std::lock_guard lock(units_mutex_);
    if (!units_.try_emplace({target, lun}, Place{.unit = std::move(unit)}).second) return false;
  }
  tell(EventType::kTransportReset, {.target = target, .lun = lun}, kResetRescan);
  return true;
}

void ScsiDevice::remove(uint8_t target, uint16_t lun) {
  Unit gone;
  {
    const std::lock_guard lock(units_mutex_);
    const auto found = units_.find({target, lun});
    if (found == units_.end()) return;
    gone = std::move(found->second.unit);
    units_.erase(found);
  }
  gone->connect(nullptr);
  for (unsigned index = kFirstRequestQueue; index < queue_count(); ++index) {
    const Lock lock(queue_mutex(index));
    QueueState& state = states_[index];
    const auto of_it = [&](const Handle& each) { return each->unit == gone; };
    for (const Handle& each : state.kept)
      if (of_it(each)) {
        each->response = Response::kBadTarget;
        answer_locked(*each);
      }
    if (std::erase_if(state.kept, of_it) == 0) continue;
    signal_locked(*queue(index));
    if (std::exchange(state.stalled, false)) serve_rest_locked(*queue(index));
  }
  tell(EventType::kTransportReset, {.target = target, .lun = lun}, kResetRemoved);
}

bool ScsiDevice::has_target(uint8_t target) const {
  return !luns(target).empty();
}

ScsiDevice::Unit ScsiDevice::unit(const Address& address) const {
  const std::lock_guard lock(units_mutex_);
  const auto found = units_.find({address.target, address.lun});
  return found == units_.end() ? nullptr : found->second.unit;
}

std::vector<uint16_t> ScsiDevice::luns(uint8_t target) const {
  std::vector<uint16_t> all;
  const std::lock_guard lock(units_mutex_);
  for (auto at = units_.lower_bound({target, 0}); at != units_.end() && at->first.first == target; ++at)
    all.push_back(at->first.second);
  return all;
}

void ScsiDevice::process(unsigned index, Lock& lock) {
  if (index == kControlQueue) return process_control_locked();
  if (index != kEventQueue) return process_requests(index, lock);
  if (events_missed_) tell_locked(*queue(index), EventType::kNone, {}, 0);
}

void ScsiDevice::process_requests(unsigned index, Lock& lock) {
  Queue& queue = *this->queue(index);
  QueueState& state = states_[index];
  // A driver that keeps adding must not keep this thread for ever.
  const unsigned most = 2u * queue.size();
  queue.set_notifications(false);
  unsigned unsignalled = 0;
  for (unsigned taken = 0;; ++taken) {
    if (state.in_flight.size() + state.kept.size() >= queue.size()) {
      state.stalled = true;
      break;
    }
    if (taken == most) {
      serve_rest_locked(queue);
      break;
    }
    auto chain = queue.pop();
    if (!chain) {
      queue.set_notifications(true);
      if (queue.empty()) break;
      queue.set_notifications(false);
      continue;
    }
    const Handle request = parse(queue, *std::move(chain));
    if (!request) {
      fail_locked(queue, "a virtio-scsi request without its headers");
      break;
    }
    list_locked(request);
    if (start(request, lock)) ++unsignalled;
    if (!running()) return;  // reset meanwhile: `queue` is gone
    if (unsignalled == kBatch) {
      signal_locked(queue);
      unsignalled = 0;
    }
  }
  if (unsignalled != 0) signal_locked(queue);
}

ScsiDevice::Handle ScsiDevice::parse(Queue& queue, Chain chain) {
  const uint32_t cdb_bytes = cdb_bytes_, sense_bytes = sense_bytes_;
  auto request = std::make_shared<InFlight>(*this, std::move(chain), queue.index());
  RequestHeader header;
  const uint64_t out = sizeof header + cdb_bytes, in = sizeof(ResponseHeader) + sense_bytes;
  const Chain& from = request->chain;
  memory::Dma& dma = queue.dma();
  const size_t cdb_kept = std::min<size_t>(cdb_bytes, request->cdb.size());
  if (from.readable_bytes() < out || from.writable_bytes() < in || !from.read_object(dma, 0, header) ||
      !from.read(dma, sizeof header, std::as_writable_bytes(std::span(request->cdb).first(cdb_kept))))
    return nullptr;
  request->sense_bytes = sense_bytes;
  request->id = header.id;
  request->address = Address::decode(header.lun);
  if (request->address && !request->address->well_known) request->unit = unit(*request->address);
  if (!request->unit && !answers_without_unit(*request)) request->response = Response::kBadTarget;
  request->out_bytes = from.readable_bytes() - out;
  request->in_bytes = from.writable_bytes() - in;
  if (!from.map_readable(dma, out, request->out_bytes, request->from) ||
      !from.map_writable(dma, in, request->in_bytes, request->to))
    request->response = Response::kFailure;
  request->out = request->from.spans;
  request->in = request->to.spans;
  return request;
}

// The unit for REPORT LUNS does nothing else; a target answers for units that it does not have (§5.6.6.1).
bool ScsiDevice::answers_without_unit(const InFlight& request) const {
  if (!request.address) return false;
  if (request.address->well_known) return request.byte(0) == ostler::scsi::kReportLuns;
  return has_target(request.address->target);
}

// Without a lock.
void ScsiDevice::dispatch(const Handle& request) {
  if (request->byte(0) == ostler::scsi::kReportLuns) {
    const Address& address = *request->address;
    return ostler::scsi::report_luns(request,
                                     address.well_known ? std::vector<uint16_t>() : luns(address.target));
  }
  if (request->unit != nullptr) return request->unit->execute(request);
  ostler::scsi::execute_without_unit(request);
}

void ScsiDevice::list_locked(const Handle& request) {
  QueueState& state = states_[request->queue];
  request->slot = state.in_flight.size();
  state.in_flight.push_back(request);
  request_started_locked(request->queue);
}

bool ScsiDevice::start(const Handle& request, Lock& lock) {
  const bool hopeless = request->response != Response::kOk;
  lock.unlock();
  if (hopeless)
    done(request);
  else
    dispatch(request);
  const bool completed = request->met.exchange(true);
  lock.lock();
  if (!completed) return false;
  std::vector<TaskHandle> ended;
  const bool answered = complete_locked(request, ended);
  if (!ended.empty()) {
    lock.unlock();
    end_tasks(ended);
    lock.lock();
  }
  return answered;
}

void ScsiDevice::done(const Handle& request) {
  if (!request->met.exchange(true)) return;  // start() has not returned: its caller goes on
  const unsigned index = request->queue;
  std::vector<TaskHandle> ended;
  Lock lock(queue_mutex(index));
  request_started_locked(index);  // the queue stays while the lock is let go
  const bool answered = complete_locked(request, ended);
  if (running() && answered && std::exchange(states_[index].stalled, false)) process_requests(index, lock);
  if (running() && answered) signal_locked(*queue(index));
  if (!ended.empty()) {
    lock.unlock();
    end_tasks(ended);
    lock.lock();
  }
  request_finished_locked(index);
}

bool ScsiDevice::complete_locked(const Handle& request, std::vector<TaskHandle>& ended) {
  bool answered = false;
  QueueState& state = states_[request->queue];
  std::swap(state.in_flight[request->slot], state.in_flight.back());
  state.in_flight[request->slot]->slot = request->slot;
  state.in_flight.pop_back();
  ended = std::exchange(request->waiters, {});
  if (running() && request->keep != 0 && request->response == Response::kOk) {
    state.kept.push_back(request);
    // After it is in the list: the guest may go on at once.
    request->unit->pause_guest(request->keep);
  } else if (running()) {
    answer_locked(*request);
    answered = true;
  }
  request_finished_locked(request->queue);
  return answered;
}

void ScsiDevice::answer_locked(InFlight& request) {
  Queue& queue = *this->queue(request.queue);
  memory::Dma& dma = queue.dma();
  const bool to_guest = request.in_bytes != 0;
  const uint64_t room = to_guest ? request.in_bytes : request.out_bytes;
  // What an aborted read has put into the guest's memory is there all the same.
  const uint64_t moved = std::min(request.transferred, room);
  if (to_guest && moved != 0) dma.written(request.to, moved);
  ResponseHeader header{};
  ostler::scsi::Bytes sense;
  const bool fine = request.response == Response::kOk && !request.overrun;
  if (fine && request.status == ostler::scsi::Status::kCheckCondition)
    sense = ostler::scsi::encode(request.sense);
  sense.resize(std::min<size_t>(sense.size(), request.sense_bytes));
  header.sense_len = static_cast<uint32_t>(sense.size());
  header.residual = static_cast<uint32_t>(fine ? room - moved : room);
  header.status = fine ? static_cast<uint8_t>(request.status) : 0;
  const Response response =
      request.response == Response::kOk && request.overrun ? Response::kOverrun : request.response;
  header.response = static_cast<uint8_t>(response);
  sense.resize(request.sense_bytes);
  if (!request.chain.write_object(dma, 0, header) || !request.chain.write(dma, sizeof header, sense))
    return fail_locked(queue, "a virtio-scsi answer outside RAM");
  const uint64_t used = sizeof header + sense.size() + (to_guest ? moved : 0);
  queue.push(std::move(request.chain), static_cast<uint32_t>(used));
}

// On the machine's thread.
void ScsiDevice::unit_resumed(ostler::scsi::LogicalUnit& unit) {
  for (unsigned index = kFirstRequestQueue; index < queue_count(); ++index) {
    Lock lock(queue_mutex(index));
    QueueState& state = states_[index];
    std::vector<Handle> again;
    std::erase_if(state.kept, [&](const Handle& each) {
      if (each->unit.get() != &unit) return false;
      again.push_back(each);
      return true;
    });
    if (again.empty()) continue;
    request_started_locked(index);  // the queue stays while the lock is let go
    bool answered = false;
    // All of them at once: a task management function finds each.
    for (const Handle& request : again) {
      request->met = false;
      request->restart();
      list_locked(request);
    }
    for (const Handle& request : again) {
      if (running()) {
        answered = start(request, lock) || answered;
        continue;
      }
      std::vector<TaskHandle> ended;  // reset: they are forgotten
      complete_locked(request, ended);
      lock.unlock();
      end_tasks(ended);
      lock.lock();
    }
    if (running() && answered) {
      if (std::exchange(state.stalled, false)) process_requests(index, lock);
      if (running()) signal_locked(*queue(index));
    }
    request_finished_locked(index);
  }
}

void ScsiDevice::stopped_locked() {
  sense_bytes_ = kDefaultSenseBytes;
  cdb_bytes_ = kDefaultCdbBytes;
  for (QueueState& state : states_) state = {};
  tasks_ = 0;
  control_stalled_ = false;
  events_missed_ = false;
  const std::lock_guard lock(units_mutex_);
  for (auto& [where, place] : units_) {
    place.subscribed = 0;
    place.unit->reset();
  }
}

void ScsiDevice::queue_stopped_locked(unsigned index) {
  states_[index] = {};
  if (index == kControlQueue) control_stalled_ = false;
  if (index == kEventQueue) events_missed_ = false;
}

void ScsiDevice::device_state(state::Archive& archive) {
  archive.section("virtio-scsi", 1);
  uint32_t sense_bytes = sense_bytes_, cdb_bytes = cdb_bytes_;
  archive.field("sense size", sense_bytes);
  archive.field("cdb size", cdb_bytes);
  archive.check(sense_bytes <= kMostSenseBytes && cdb_bytes <= kMostCdbBytes, "sizes");
  archive.field("events missed", events_missed_);
  const std::lock_guard lock(units_mutex_);
  auto count = static_cast<uint32_t>(units_.size());
  archive.field("units", count);
  archive.check(count == units_.size(), "units");
  if (archive.failed()) return;
  sense_bytes_ = sense_bytes;
  cdb_bytes_ = cdb_bytes;
  for (auto& [where, place] : units_) {
    archive.section("virtio-scsi unit", 1);
    uint8_t target = where.first;
    uint16_t lun = where.second;
    archive.field("target", target);
    archive.field("lun", lun);
    archive.check(target == where.first && lun == where.second, "place of a unit");
    archive.field("subscribed", place.subscribed);
    place.unit->state(archive);
  }
  archive.section("virtio-scsi kept", 1);
  for (unsigned index = kFirstRequestQueue; index < queue_count(); ++index) {
    QueueState& state = states_[index];
    state.records.clear();
    for (const auto& request : state.kept) state.records.push_back(request->chain.record());
    auto kept = static_cast<uint16_t>(state.records.size());
    archive.field("kept", kept);
    archive.check(kept <= queue_max_size(index), "kept");
    if (archive.failed()) return;
    state.records.resize(kept);
    for (ChainRecord& record : state.records) record.state(archive);
  }
}

void ScsiDevice::loaded_locked() {
  for (unsigned index = kFirstRequestQueue; index < queue_count(); ++index) {
    QueueState& state = states_[index];
    Queue* const queue = this->queue(index);
    for (const ChainRecord& record : std::exchange(state.records, {})) {
      auto chain = queue != nullptr ? queue->take_again(record) : std::nullopt;
      if (!chain) break;
      Handle request = parse(*queue, *std::move(chain));
      if (!request || request->unit == nullptr) {
        fail_locked(*queue, "a kept virtio-scsi request without its headers or its unit");
        break;
      }
      state.kept.push_back(std::move(request));
    }
  }
}

}  // namespace ostler::virtio::scsi
