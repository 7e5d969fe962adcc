// virtio-scsi (Virtio 1.2 §5.6): a SCSI controller whose units are scsi::LogicalUnits.
//
// Requests are taken on the thread that notifies, as virtio-blk does, and complete there or where the unit's
// disk completes them; queues share no lock. A task management function ends when the commands that it names
// have ended: the host's own requests cannot be called back. A command that failed and that the user wants to
// be executed again (werror=stop) is kept until the guest goes on, and is part of the saved state.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/scsi/logical_unit.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "devices/virtio/scsi/wire.h"

namespace ostler::virtio::scsi {

inline constexpr uint16_t kMostRequestQueues = Device::kMaxQueues - kFirstRequestQueue;

struct Options : DeviceOptions {
  std::optional<uint16_t> num_queues;  // none: up to the machine, else one
  uint16_t queue_size = 256;
  uint32_t max_sectors = 0xffff;
  uint32_t cmd_per_lun = 128;
  bool hotplug = true;
  bool param_change = true;
  std::string iothread;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class ScsiDevice final : public Device, private ostler::scsi::Listener {
 public:
  ScsiDevice(memory::AddressSpace& memory, const Options& options);
  ~ScsiDevice() override;
  uint16_t type() const override { return kTypeScsi; }

  // A unit, from now on; a driver that runs is told. False: the place is taken. Any thread.
  bool add(uint8_t target, uint16_t lun, std::shared_ptr<ostler::scsi::LogicalUnit> unit);
  // The unit goes when its last command has ended. Any thread.
  void remove(uint8_t target, uint16_t lun);
  bool has_target(uint8_t target) const;

  // Task management functions that wait for commands, at most.
  static constexpr unsigned kMostTasks = 8;

 private:
  using Unit = std::shared_ptr<ostler::scsi::LogicalUnit>;
  struct InFlight;
  struct Task;
  using Handle = std::shared_ptr<InFlight>;
  using TaskHandle = std::shared_ptr<Task>;
  struct Place {
    Unit unit;
    uint32_t subscribed = 0;  // asynchronous events
  };
  // Of one request queue, guarded by its lock.
  struct QueueState {
    std::vector<Handle> in_flight;     // with their units
    std::vector<Handle> kept;          // failed, to be executed again
    bool stalled = false;              // stopped taking requests; whoever completes one goes on
    std::vector<ChainRecord> records;  // of kept ones, while state is saved or loaded
  };

  uint64_t device_features() const override;
  void config_locked(std::vector<std::byte>& config) override;
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  void process(unsigned queue, Lock& lock) override;
  void stopped_locked() override;
  void queue_stopped_locked(unsigned queue) override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;

  void process_requests(unsigned queue, Lock& lock);
  Handle parse(Queue& queue, Chain chain);
  bool answers_without_unit(const InFlight& request) const;
  void dispatch(const Handle& request);
  void list_locked(const Handle& request);
  // One that is listed. True when it is complete and the driver is to be told. `lock` is let go meanwhile.
  bool start(const Handle& request, Lock& lock);
  void done(const Handle& request);
  bool complete_locked(const Handle& request, std::vector<TaskHandle>& ended);
  void answer_locked(InFlight& request);

  // Control requests; the lock of their queue is held, and those of request queues are taken one by one.
  void process_control_locked();
  void control_locked(Queue& queue, const TaskHandle& task);
  bool begin_task_locked(const TaskHandle& task, const TaskRequest& wanted);
  bool touch_commands_locked(const TaskHandle& task, const TaskRequest& wanted);
  void subscribe_locked(Queue& queue, Chain& chain, const AsyncRequest& wanted, bool query);
  void answer_task_locked(Queue& queue, Task& task);
  void end_tasks(std::vector<TaskHandle>& tasks);

  // Events
  void tell(EventType type, const Address& of, uint32_t reason);
  void tell_locked(Queue& queue, EventType type, const Address& of, uint32_t reason);
  void unit_changed(ostler::scsi::LogicalUnit& unit, const ostler::scsi::Sense& why) override;
  void unit_resumed(ostler::scsi::LogicalUnit& unit) override;

  Unit unit(const Address& address) const;
  std::vector<uint16_t> luns(uint8_t target) const;

  const Options options_;
  std::atomic<uint32_t> sense_bytes_{kDefaultSenseBytes}, cdb_bytes_{kDefaultCdbBytes};
  mutable std::mutex units_mutex_;  // below all others
  std::map<std::pair<uint8_t, uint16_t>, Place> units_;
  std::vector<QueueState> states_;  // the first two are unused
  // Guarded by the control queue's lock.
  unsigned tasks_ = 0;
  bool control_stalled_ = false;
  // Guarded by the event queue's lock.
  bool events_missed_ = false;
};

}  // namespace ostler::virtio::scsi
