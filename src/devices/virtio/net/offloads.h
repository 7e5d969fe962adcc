// What a network can finish of a frame (net/frame.h), as features of virtio-net in either direction.
#pragma once

#include <cstdint>

#include "net/frame.h"

namespace ostler::virtio::net {

// Of the features of the guest's direction (VIRTIO_NET_F_GUEST_…) that its driver took.
ostler::net::Offloads offloads_of(uint64_t features);
// All that may be offered over a network that finishes `offloads` in both directions.
uint64_t features_of(ostler::net::Offloads offloads);

}  // namespace ostler::virtio::net
