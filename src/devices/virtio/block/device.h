// virtio-blk (Virtio 1.2 §5.2) over any block::Backend.
//
// Requests are taken on the thread that notifies, a vCPU's as a rule, and those that the node finishes at
// once complete there, with one interrupt for the batch. Others complete on the node's threads. At most a
// queue's size of requests are in flight, whatever the driver does to its rings.
#pragma once

#include <atomic>
#include <memory>
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
  uint16_t num_queues = 1;
  bool discard = true;
  bool write_zeroes = true;
  bool config_wce = true;
  config::OnOffAuto write_cache = config::OnOffAuto::kAuto;  // off: writes are stable when done
  uint32_t bootindex = 0;
};

// "virtio-blk-pci", or "virtio-blk-device" without the PCI properties.
const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class BlockDevice final : public Device {
 public:
  BlockDevice(memory::AddressSpace& memory, std::shared_ptr<ostler::block::Backend> node,
              const Options& options);
  ~BlockDevice() override;

  uint16_t type() const override { return kTypeBlock; }
  // The node has grown or shrunk.
  void capacity_changed();

 private:
  struct InFlight;
  uint64_t device_features() const override;
  void config_locked(std::vector<std::byte>& config) override;
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  void started_locked() override;
  void process(unsigned queue, Lock& lock) override;
  void stopped_locked() override;
  void device_state(state::Archive& archive) override;

  void process_some(Queue& queue, Lock& lock, unsigned most);
  void submit(const std::shared_ptr<InFlight>& request);
  void submit_ranges(const std::shared_ptr<InFlight>& request, int error);
  void done(const std::shared_ptr<InFlight>& request, int error);
  void complete_locked(InFlight& request);
  void answer_locked(Request& request);
  bool write_through_locked() const;
  void resume_later_locked(unsigned queue);

  const std::shared_ptr<ostler::block::Backend> node_;
  const Options options_;
  bool initial_writeback() const { return options_.write_cache != config::OnOffAuto::kOff; }
  // Guarded by mutex_.
  bool writeback_ = true;
  std::vector<uint16_t> per_queue_in_flight_;
  std::vector<bool> stalled_;  // stopped taking requests; whoever completes one goes on
};

}  // namespace ostler::virtio::block
