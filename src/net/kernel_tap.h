// A tap device whose frames the host's kernel carries between it and the guest's memory by itself: vhost-net
// (linux/vhost.h), one open /dev/vhost-net for each queue pair.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/tap_device.h"
#include "net/tap_options.h"
#include "net/vhost_net.h"

namespace ostler::net {

class KernelTap {
 public:
  // Opens the tap device, and vhost-net for it as `options.vhost` says. Where it cannot be opened and need
  // not be, a warning says why, and there is nothing but the tap device. Errors name the cure.
  static Result<std::unique_ptr<KernelTap>> open(const TapOptions& options);
  ~KernelTap();
  KernelTap(const KernelTap&) = delete;
  KernelTap& operator=(const KernelTap&) = delete;

  const std::string& id() const { return id_; }
  const TapDevice& device() const { return device_; }
  uint32_t poll_us() const { return poll_us_; }
  bool has_vhost() const { return !vhosts_.empty(); }
  // The descriptors of vhost-net, one for each queue pair: for one user, once.
  std::vector<VhostNet> take_vhosts() { return std::move(vhosts_); }
  // For a back end of this process instead; what was opened of vhost-net is closed.
  TapDevice take_device();

 private:
  KernelTap(TapDevice device, const TapOptions& options)
      : id_(options.id), poll_us_(options.poll_us), device_(std::move(device)) {}

  const std::string id_;
  const uint32_t poll_us_;
  TapDevice device_;
  std::vector<VhostNet> vhosts_;
};

}  // namespace ostler::net
