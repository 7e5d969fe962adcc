// virtio-rng (Virtio 1.2 §5.4): the host kernel's random numbers, on the thread that notifies.
#pragma once

#include <string>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"

namespace ostler::virtio::rng {

struct Options : DeviceOptions {
  std::string rng;  // -object rng-random or rng-builtin; both mean the kernel's generator
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class RngDevice final : public Device {
 public:
  // The most that one request gets; drivers ask again (§5.4.6.1 allows less than asked).
  static constexpr uint64_t kMostBytes = 16 * 1024;

  RngDevice(memory::AddressSpace& memory, const Options& options);
  ~RngDevice() override;
  uint16_t type() const override { return kTypeEntropy; }

 private:
  uint64_t device_features() const override { return 0; }
  void config_locked(std::vector<std::byte>&) override {}
  void process(unsigned queue, Lock& lock) override;
  void device_state(state::Archive& archive) override { archive.section("virtio-rng", 1); }
};

}  // namespace ostler::virtio::rng
