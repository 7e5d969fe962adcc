// A request of virtio-scsi from the ring until its chain goes back, and a task management function that
// waits.
#pragma once

#include "devices/virtio/scsi/device.h"

namespace ostler::virtio::scsi {

// Whoever comes second, the submitter or the completion, finishes the request (as in virtio-blk).
struct ScsiDevice::InFlight : ostler::scsi::Command {
  InFlight(ScsiDevice& owner, Chain from_ring, unsigned queue_index)
      : device(owner), chain(std::move(from_ring)), queue(queue_index) {}
  void completed(std::shared_ptr<Command> self) override {
    device.done(std::static_pointer_cast<InFlight>(std::move(self)));
  }

  ScsiDevice& device;
  Chain chain;
  const unsigned queue;
  std::optional<Address> address;  // none: not one that could be
  Unit unit;                       // null: there is none at the address
  uint64_t id = 0;
  uint32_t sense_bytes = 0;  // room for sense data in the answer
  memory::Mapping to, from;  // the guest's data
  std::atomic<bool> met{false};
  // Guarded by the queue's lock.
  Response response = Response::kOk;  // not kOk: whatever the unit says
  size_t slot = 0;                    // in QueueState::in_flight
  std::vector<TaskHandle> waiters;
};

struct ScsiDevice::Task {
  explicit Task(Chain from_ring) : chain(std::move(from_ring)) {}
  Chain chain;
  std::vector<Unit> reset;  // when it ends
  Response response = Response::kOk;
  std::atomic<unsigned> pending{1};
};

}  // namespace ostler::virtio::scsi
