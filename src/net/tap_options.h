// -netdev tap and bridge: what they may be told, from text to a plain struct.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/property.h"
#include "net/vhost_net.h"

namespace ostler::net {

inline constexpr unsigned kMaxTapQueues = 16;

struct TapOptions {
  std::string id;
  std::string ifname;              // "": the kernel chooses; '%d' in it too
  std::vector<int> fds;            // open tap devices, one for each queue pair; they become ours
  std::string script, downscript;  // run with the device's name; "": none
  std::string bridge;              // to join; "": none
  std::string helper;              // a program that makes a tap device on the bridge; "": this one does
  bool managed = false;            // the bridge is made when it is not there, and removed at the end
  std::string address;             // of the host on a managed bridge, "10.1.2.1/24"; "": a free network
  bool nat = false;                // guests on a managed bridge reach the world
  unsigned queues = 1;
  config::OnOffAuto vnet_hdr = config::OnOffAuto::kAuto;
  bool vhost = false;        // the kernel carries the frames by itself, where it can
  bool vhost_force = false;  // it is an error if it cannot
  std::string vhost_device = kVhostNet;
  std::vector<int> vhost_fds;  // open /dev/vhost-net, one for each queue pair; they become ours
  uint32_t poll_us = 0;        // microseconds that vhost-net looks for more before it sleeps
  uint64_t sndbuf = 0;         // bytes that may wait in the kernel; 0: no limit
};

Result<TapOptions> parse_tap(std::span<const config::KeyValue> values);
Result<TapOptions> parse_bridge(std::span<const config::KeyValue> values);

}  // namespace ostler::net
