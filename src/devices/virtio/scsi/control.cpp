// The control and event queues (Virtio 1.2 §5.6.6.2, §5.6.6.3).
#include <algorithm>

#include "devices/virtio/scsi/in_flight.h"

namespace ostler::virtio::scsi {

void ScsiDevice::process_control_locked() {
  Queue& queue = *this->queue(kControlQueue);
  // What waits is bounded, whatever the driver does to its rings.
  control_stalled_ = tasks_ >= kMostTasks;
  if (control_stalled_) return;
  serve_chains_locked(queue, [&](Chain&& chain) {
    control_locked(queue, std::make_shared<Task>(std::move(chain)));
    control_stalled_ = tasks_ >= kMostTasks;
    return !control_stalled_ && !queue.broken();
  });
  signal_locked(queue);
}

void ScsiDevice::control_locked(Queue& queue, const TaskHandle& task) {
  memory::Dma& dma = queue.dma();
  Chain& chain = task->chain;
  uint32_t type = 0;
  if (!chain.read_object(dma, 0, type))
    return fail_locked(queue, "a virtio-scsi control request without a type");
  switch (static_cast<ControlType>(type)) {
    case ControlType::kTask: {
      TaskRequest wanted;
      if (!chain.read_object(dma, 0, wanted) || chain.writable_bytes() == 0)
        return fail_locked(queue, "a virtio-scsi task function that is too short");
      ++tasks_;
      request_started_locked(kControlQueue);
      if (begin_task_locked(task, wanted)) answer_task_locked(queue, *task);
      return;
    }
    case ControlType::kAsyncQuery:
    case ControlType::kAsyncSubscribe: {
      AsyncRequest wanted;
      if (!chain.read_object(dma, 0, wanted) || chain.writable_bytes() < sizeof(AsyncResponse))
        return fail_locked(queue, "a virtio-scsi notification request that is too short");
      return subscribe_locked(queue, chain, wanted,
                              static_cast<ControlType>(type) == ControlType::kAsyncQuery);
    }
  }
  fail_locked(queue, "a virtio-scsi control request of unknown type");
}

void ScsiDevice::subscribe_locked(Queue& queue, Chain& chain, const AsyncRequest& wanted, bool query) {
  AsyncResponse answer{};
  const auto address = Address::decode(wanted.lun);
  if (!address || address->well_known || !has_target(address->target)) {
    answer.response = static_cast<uint8_t>(Response::kBadTarget);
  } else {
    const std::lock_guard lock(units_mutex_);
    const auto found = units_.find({address->target, address->lun});
    if (found == units_.end()) {
      answer.response = static_cast<uint8_t>(Response::kIncorrectLun);
    } else {
      Place& place = found->second;
      const bool removable = place.unit->kind() == ostler::scsi::DeviceKind::kCd;
      answer.event_actual = removable ? wanted.event_requested & kAsyncMediaChange : 0;
      if (!query) place.subscribed = answer.event_actual;
    }
  }
  if (!chain.write_object(queue.dma(), 0, answer))
    return fail_locked(queue, "a virtio-scsi answer outside RAM");
  queue.push(std::move(chain), sizeof answer);
}

// True: it has ended. SAM-5 §7.
bool ScsiDevice::begin_task_locked(const TaskHandle& task, const TaskRequest& wanted) {
  const auto address = Address::decode(wanted.lun);
  if (!address || address->well_known || !has_target(address->target)) {
    task->response = Response::kBadTarget;
    return true;
  }
  const auto function = static_cast<TaskFunction>(wanted.subtype);
  const bool whole_target = function == TaskFunction::kNexusReset;
  const Unit of = unit(*address);
  if (of == nullptr && !whole_target) {
    task->response = Response::kIncorrectLun;
    return true;
  }
  switch (function) {
    case TaskFunction::kUnitReset:
      task->reset.push_back(of);
      break;
    case TaskFunction::kNexusReset:
      for (const uint16_t lun : luns(address->target))
        if (Unit each = unit({.target = address->target, .lun = lun})) task->reset.push_back(std::move(each));
      break;
    case TaskFunction::kAbortTask:
    case TaskFunction::kAbortTaskSet:
    case TaskFunction::kClearTaskSet:
    case TaskFunction::kQueryTask:
    case TaskFunction::kQueryTaskSet:
      break;
    case TaskFunction::kClearAca:  // NACA is not supported
    default:
      task->response = Response::kFunctionRejected;
      return true;
  }
  return touch_commands_locked(task, wanted);
}

bool ScsiDevice::touch_commands_locked(const TaskHandle& task, const TaskRequest& wanted) {
  const auto function = static_cast<TaskFunction>(wanted.subtype);
  const Address address = *Address::decode(wanted.lun);
  const bool query = function == TaskFunction::kQueryTask || function == TaskFunction::kQueryTaskSet;
  const bool one = function == TaskFunction::kQueryTask || function == TaskFunction::kAbortTask;
  const bool reset = !task->reset.empty() || function == TaskFunction::kNexusReset;
  const auto meant = [&](const InFlight& request) {
    if (!request.address || request.address->well_known || request.address->target != address.target)
      return false;
    return function == TaskFunction::kNexusReset ||
           (request.address->lun == address.lun && (!one || request.id == wanted.id));
  };
  for (unsigned index = kFirstRequestQueue; index < queue_count(); ++index) {
    const Lock lock(queue_mutex(index));
    Queue* const queue = this->queue(index);
    if (queue == nullptr) continue;
    QueueState& state = states_[index];
    std::vector<Handle> ended;
    for (const auto* const list : {&state.in_flight, &state.kept})
      for (const Handle& each : *list) {
        if (!meant(*each)) continue;
        if (query) {
          task->response = Response::kFunctionSucceeded;
          continue;
        }
        if (each->response == Response::kOk) each->response = reset ? Response::kReset : Response::kAborted;
        if (list == &state.kept) {
          ended.push_back(each);
        } else {
          task->pending.fetch_add(1);
          each->waiters.push_back(task);
        }
      }
    if (ended.empty()) continue;
    std::erase_if(state.kept, [](const Handle& each) { return each->response != Response::kOk; });
    for (const Handle& each : ended) answer_locked(*each);
    signal_locked(*queue);
    if (std::exchange(state.stalled, false)) serve_rest_locked(*queue);
  }
  return task->pending.fetch_sub(1) == 1;
}

void ScsiDevice::answer_task_locked(Queue& queue, Task& task) {
  for (const Unit& each : task.reset) each->reset();
  --tasks_;
  request_finished_locked(kControlQueue);
  if (!task.chain.write_object(queue.dma(), 0, task.response))
    return fail_locked(queue, "a virtio-scsi answer outside RAM");
  queue.push(std::move(task.chain), sizeof task.response);
}

// Without a lock: a command has ended for which they waited.
void ScsiDevice::end_tasks(std::vector<TaskHandle>& tasks) {
  for (const TaskHandle& task : tasks) {
    if (task->pending.fetch_sub(1) != 1) continue;
    const Lock lock(queue_mutex(kControlQueue));
    if (!running() || queue(kControlQueue) == nullptr) {
      request_finished_locked(kControlQueue);
      continue;
    }
    request_started_locked(kControlQueue);  // the queue stays
    answer_task_locked(*queue(kControlQueue), *task);
    if (std::exchange(control_stalled_, false))
      process_control_locked();
    else
      signal_locked(*queue(kControlQueue));
    request_finished_locked(kControlQueue);
  }
}

void ScsiDevice::tell(EventType type, const Address& of, uint32_t reason) {
  Lock lock(queue_mutex(kEventQueue));
  if (!running() || queue(kEventQueue) == nullptr) return;
  if (type == EventType::kTransportReset && !has_feature(VIRTIO_SCSI_F_HOTPLUG)) return;
  if (type == EventType::kParameterChange && !has_feature(VIRTIO_SCSI_F_CHANGE)) return;
  tell_locked(*queue(kEventQueue), type, of, reason);
}

void ScsiDevice::tell_locked(Queue& queue, EventType type, const Address& of, uint32_t reason) {
  auto chain = queue.pop();
  if (!chain) {
    // Told with the next event, or when there is room (§5.6.6.3.1).
    events_missed_ = events_missed_ || type != EventType::kNone;
    if (queue.broken()) signal_locked(queue);
    return;
  }
  Event event{};
  event.event = static_cast<uint32_t>(type) | (std::exchange(events_missed_, false) ? kEventsMissed : 0);
  if (type != EventType::kNone) event.lun = of.encode();
  event.reason = reason;
  if (!chain->write_object(queue.dma(), 0, event))
    return fail_locked(queue, "a virtio-scsi event buffer that is too short");
  queue.push(*std::move(chain), sizeof event);
  signal_locked(queue);
}

void ScsiDevice::unit_changed(ostler::scsi::LogicalUnit& unit, const ostler::scsi::Sense& why) {
  std::optional<Address> address;
  bool subscribed = false;
  {
    const std::lock_guard lock(units_mutex_);
    for (const auto& [where, place] : units_)
      if (place.unit.get() == &unit) {
        address = Address{.target = where.first, .lun = where.second};
        subscribed = (place.subscribed & kAsyncMediaChange) != 0;
      }
  }
  if (!address) return;
  // A driver learns of media by asking; those that want to be told have said so.
  if (unit.kind() != ostler::scsi::DeviceKind::kCd)
    tell(EventType::kParameterChange, *address, why.code | uint32_t{why.qualifier} << 8);
  else if (subscribed)
    tell(EventType::kAsyncNotify, *address, kAsyncMediaChange);
}

}  // namespace ostler::virtio::scsi
