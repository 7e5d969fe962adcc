// virtio-blk (Virtio 1.2 §5.2) whose disk another process has, as qemu-storage-daemon exports it.
//
// The configuration is the back end's, but for the number of queues. Requests that a back end takes with it
// when it dies are sent to the next one, if `reconnect` says that there will be one: all kinds of requests of
// a disk may be done twice. Otherwise they fail in the guest.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "config/property.h"
#include "devices/virtio/options.h"
#include "devices/virtio/vhost_user/device.h"

namespace ostler::virtio::vhost_user {

struct BlockOptions : DeviceOptions {
  std::string chardev;
  uint16_t queue_size = 128;
  std::optional<uint16_t> num_queues;  // none: auto
  uint16_t auto_queues = 1;            // of auto: so many, or as many as the back end has
  bool config_wce = true;
  uint32_t bootindex = 0;
  bool discard = true;
  bool write_zeroes = true;
};

const config::PropertyTable<BlockOptions>& block_pci_properties();
const config::PropertyTable<BlockOptions>& block_mmio_properties();

class BlockDevice final : public VhostUserDevice {
 public:
  // Connects to the back end. Errors: the options (kInvalidArgument), the back end.
  static Result<std::unique_ptr<BlockDevice>> create(memory::AddressSpace& memory, event::Loop& loop,
                                                     const BlockOptions& options, const Address& address);
  ~BlockDevice() override { leave(); }
  uint16_t type() const override { return kTypeBlock; }

 private:
  BlockDevice(memory::AddressSpace& memory, event::Loop& loop, const BlockOptions& options, uint64_t offered,
              std::vector<std::byte> config, Parts parts);
  uint64_t device_features() const override { return offered_; }
  uint64_t back_end_features() const override;
  void config_locked(std::vector<std::byte>& config) override { config = config_; }
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  bool keeps_requests(unsigned) const override { return reconnects(); }
  uint32_t wanted_config() const override;
  Result<void> accept_locked(Session& session, std::vector<std::byte> config) override;
  // The disk has another size.
  Result<void> config_told_locked(Session& session) override;
  void take_config_locked(std::vector<std::byte> config);
  void refuse_locked(Queue& queue, Chain chain) override;
  void device_state(state::Archive& archive) override;
  void restored_locked() override;

  const uint16_t num_queues_;
  const uint64_t offered_;
  std::vector<std::byte> config_;  // guarded by mutex_
};

}  // namespace ostler::virtio::vhost_user
