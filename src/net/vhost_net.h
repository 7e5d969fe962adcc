// An open /dev/vhost-net (linux/vhost.h): two rings, of received (0) and of sent (1) frames, that the kernel
// serves in our memory. Errors name the request.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::net {

inline constexpr const char* kVhostNet = "/dev/vhost-net";

// One thread at a time. The kernel's threads stop with the descriptor.
class VhostNet {
 public:
  // A feature of its own: it puts headers before the frames of a tap device that has none.
  static constexpr uint64_t kMakesHeaders = uint64_t{1} << 27;

  struct Region {
    uint64_t guest_address = 0, size = 0;
    uint64_t user_address = 0;
  };
  struct Ring {
    uint16_t size = 0;                                  // descriptors
    uint16_t base = 0;                                  // both indices, at the start
    uint64_t descriptors = 0, available = 0, used = 0;  // user addresses
    int kick = -1, call = -1, error = -1;               // eventfds
    uint32_t poll_us = 0;  // microseconds that it looks for more work before it sleeps
  };

  // Opens it. Errors name the cure.
  static Result<VhostNet> open(const std::string& path = kVhostNet);
  explicit VhostNet(Fd fd) : fd_(std::move(fd)) {}

  // First of all. Errors tell of a descriptor that is something else, or has an owner.
  Result<void> own();
  Result<uint64_t> features();
  Result<void> set_features(uint64_t features);
  // On return it uses no older table.
  Result<void> set_memory(std::span<const Region> regions);
  // Without tap device.
  Result<void> set_ring(unsigned ring, const Ring& place);
  // It uses none of the ring's eventfds any more.
  Result<void> forget_events(unsigned ring);
  // Whose frames go through the ring; -1: none, and on return it leaves the ring and its buffers alone.
  Result<void> set_tap(unsigned ring, int tap);

 private:
  Result<void> call(unsigned long request, const void* argument, const char* name);

  Fd fd_;
};

}  // namespace ostler::net
