// A tap device of the host, opened: its descriptors (tun/tap, Documentation/networking/tuntap.rst), one for
// each queue pair.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "net/frame.h"
#include "net/managed_bridge.h"
#include "net/tap_options.h"

namespace ostler::net {

struct TapDevice {
  std::string name;
  std::unique_ptr<ManagedBridge> bridge;  // before the queues: it goes after them
  std::vector<Fd> queues;                 // do not block
  bool vnet_header = false;               // each frame follows its header
  Offloads offloads = 0;                  // that the kernel understands, in both directions
  std::string downscript;                 // to be run with the name at the end

  // Errors name the cure: the command that makes a device, or gives the right to make one.
  static Result<TapDevice> open(const TapOptions& options);
};

// What the kernel may leave undone in frames for us. False: it refused.
bool set_tap_offloads(const Fd& queue, Offloads offloads);
// Whether the kernel gives this queue frames. It must not be the only one.
bool set_tap_queue(const Fd& queue, bool on);
void set_tap_carrier(const Fd& queue, bool up);
// How many bytes stand before each frame; the device has a vnet_header.
bool set_tap_header(const Fd& queue, size_t bytes);
// At the device's end, when it has one. `id`: the network's.
void run_downscript(const TapDevice& device, const std::string& id);

}  // namespace ostler::net
