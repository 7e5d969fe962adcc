// virtio-rng (Virtio 1.2 §5.4): the host kernel's random numbers, on the thread that notifies; beyond a
// limit, on the event loop's thread when the next period begins.
#pragma once

#include <string>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "event/loop.h"

namespace ostler::virtio::rng {

struct Options : DeviceOptions {
  std::string rng;  // -object rng-random or rng-builtin; both mean the kernel's generator
  uint64_t max_bytes = kUnlimited;
  uint32_t period = 65536;  // ms
  static constexpr uint64_t kUnlimited = INT64_MAX;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

class RngDevice final : public Device {
 public:
  // The most that one request gets; drivers ask again (§5.4.6.1 allows less than asked).
  static constexpr uint64_t kMostBytes = 16 * 1024;

  RngDevice(memory::AddressSpace& memory, event::Loop& loop, const Options& options);
  ~RngDevice() override;
  uint16_t type() const override { return kTypeEntropy; }

 private:
  uint64_t device_features() const override { return 0; }
  void config_locked(std::vector<std::byte>&) override {}
  void process(unsigned queue, Lock& lock) override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;
  void serve_locked();
  void period_over();

  event::Loop& loop_;
  const Options options_;
  // Guarded by mutex_.
  uint64_t left_;          // bytes in this period
  int64_t deadline_ = -1;  // its end on the virtual clock; -1: none has begun
  event::Timer timer_;     // last: its destructor waits for the callback
};

}  // namespace ostler::virtio::rng
