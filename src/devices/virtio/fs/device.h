// virtio-fs (Virtio 1.2 §5.11): a folder of the host in the guest. The requests are FUSE's, and another
// process answers them over vhost-user (virtiofsd).
#pragma once

#include <memory>
#include <string>

#include "config/property.h"
#include "devices/virtio/options.h"
#include "devices/virtio/vhost_user/device.h"

namespace ostler::virtio::fs {

inline constexpr uint16_t kTypeFileSystem = 26;
inline constexpr size_t kMostTag = 36;  // bytes, §5.11.4

struct Options : DeviceOptions {
  std::string chardev;
  std::string tag;
  uint16_t queue_size = 128;
  uint16_t num_request_queues = 1;
  uint32_t bootindex = 0;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class FsDevice final : public vhost_user::VhostUserDevice {
 public:
  // Connects to the back end. Errors: the options (kInvalidArgument), the back end.
  static Result<std::unique_ptr<FsDevice>> create(memory::AddressSpace& memory, event::Loop& loop,
                                                  const Options& options, const vhost_user::Address& address);
  ~FsDevice() override { leave(); }
  uint16_t type() const override { return kTypeFileSystem; }

 private:
  FsDevice(memory::AddressSpace& memory, event::Loop& loop, const Options& options, Parts parts);
  uint64_t device_features() const override { return 0; }
  void config_locked(std::vector<std::byte>& config) override;
  void refuse_locked(Queue& queue, Chain chain) override;
  void device_state(state::Archive& archive) override;

  const Options options_;
};

}  // namespace ostler::virtio::fs
