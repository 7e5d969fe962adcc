// virtio-blk (Virtio 1.2 §5.2) over any block::Backend, one for each queue.
//
// Requests are taken on the thread that notifies, a vCPU's as a rule, and those that the node finishes at
// once complete there, with one interrupt for the batch. Others complete on the queue's I/O thread. At most a
// queue's size of requests are in flight, whatever the driver does to its rings. Queues share no lock.
//
// A request that failed and that the user wants to be sent again (werror=stop) is kept until the guest goes
// on; it counts as taken and is part of the saved state.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/backend.h"
#include "config/property.h"
#include "devices/virtio/block/request.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"

namespace ostler::virtio::block {

struct Options : DeviceOptions {
  std::string drive;
  std::string serial;
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 512;
  uint32_t min_io_size = 0;  // bytes; 0: not told
  uint32_t opt_io_size = 0;
  uint16_t queue_size = 256;
  std::optional<uint16_t> num_queues;  // none: up to the machine, else one
  bool discard = true;
  uint32_t discard_granularity = 0;  // bytes; 0: the host's pages or a block, whichever is larger
  uint32_t max_discard_sectors = kMaxRangeSectors, max_write_zeroes_sectors = kMaxRangeSectors;
  bool write_zeroes = true;
  bool config_wce = true;
  config::OnOffAuto write_cache = config::OnOffAuto::kAuto;  // off: writes are stable when done
  uint32_t bootindex = 0;
  bool share_rw = false;
  std::string werror, rerror;  // report, ignore, stop, enospc, auto; "": auto
  std::string iothread;
  std::string iothread_vq_mapping;  // JSON
};

// "virtio-blk-pci", or "virtio-blk-device" without the PCI properties.
const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class BlockDevice final : public Device {
 public:
  // `queues`: the disk for each queue, or one for all.
  BlockDevice(memory::AddressSpace& memory, std::vector<std::shared_ptr<ostler::block::Backend>> queues,
              const Options& options);
  ~BlockDevice() override;

  uint16_t type() const override { return kTypeBlock; }
  // The node has grown or shrunk.
  void capacity_changed();

 private:
  struct InFlight;
  // Of one queue, guarded by its lock.
  struct QueueState {
    uint16_t in_flight = 0;                       // kept ones too
    bool stalled = false;                         // stopped taking requests; whoever completes one goes on
    std::vector<std::shared_ptr<InFlight>> kept;  // failed, to be sent again
    std::vector<ChainRecord> records;             // of kept ones, while state is saved or loaded
  };
  uint64_t device_features() const override;
  void config_locked(std::vector<std::byte>& config) override;
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  void process(unsigned queue, Lock& lock) override;
  void stopped_locked() override;
  void queue_stopped_locked(unsigned queue) override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;

  void process_some(Queue& queue, Lock& lock, unsigned most);
  void submit(const std::shared_ptr<InFlight>& request);
  void submit_ranges(const std::shared_ptr<InFlight>& request, int error);
  void done(const std::shared_ptr<InFlight>& request, int error);
  // Hands it to its node, with `lock` let go meanwhile; true when it is complete and the driver is to be
  // told.
  bool start(const std::shared_ptr<InFlight>& request, Lock& lock);
  bool complete_locked(const std::shared_ptr<InFlight>& request);
  void send_kept_again();
  void answer_locked(Request& request);
  bool write_through() const;
  void resume_later_locked(unsigned queue);

  const std::vector<std::shared_ptr<ostler::block::Backend>> nodes_;
  const std::shared_ptr<ostler::block::Backend> node_;  // of queue 0
  const Options options_;
  bool initial_writeback() const {
    return options_.write_cache == config::OnOffAuto::kAuto ? !node_->writes_through()
                                                            : options_.write_cache == config::OnOffAuto::kOn;
  }
  ostler::block::Backend& node(unsigned queue) const { return *nodes_[nodes_.size() == 1 ? 0 : queue]; }
  std::atomic<bool> writeback_{true};
  std::vector<QueueState> states_;
};

}  // namespace ostler::virtio::block
