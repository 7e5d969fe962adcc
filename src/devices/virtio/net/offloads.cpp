#include "devices/virtio/net/offloads.h"

#include "devices/virtio/features.h"
#include "devices/virtio/net/wire.h"

namespace ostler::virtio::net {

using namespace ostler::net;

Offloads offloads_of(uint64_t features) {
  Offloads offloads = 0;
  const auto has = [features](unsigned bit) { return (features & feature(bit)) != 0; };
  if (!has(VIRTIO_NET_F_GUEST_CSUM)) return 0;
  offloads |= kChecksum;
  if (has(VIRTIO_NET_F_GUEST_TSO4)) offloads |= kTso4;
  if (has(VIRTIO_NET_F_GUEST_TSO6)) offloads |= kTso6;
  if (has(VIRTIO_NET_F_GUEST_ECN)) offloads |= kTsoEcn;
  if (has(VIRTIO_NET_F_GUEST_UFO)) offloads |= kUfo;
  if (has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6)) offloads |= kUso;
  return offloads;
}

uint64_t features_of(Offloads offloads) {
  uint64_t bits = 0;
  const auto offer = [&](Offloads needed, auto... features) {
    if ((offloads & (kChecksum | needed)) == (kChecksum | needed)) bits |= (feature(features) | ...);
  };
  offer(0, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM);
  offer(kTso4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4);
  offer(kTso6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6);
  offer(kTsoEcn, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN);
  offer(kUfo, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO);
  offer(kUso, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6);
  return bits;
}

}  // namespace ostler::virtio::net
