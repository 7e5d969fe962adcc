#include "net/vhost_net.h"

#define VIRTIO_RING_NO_LEGACY  // its functions are no C++

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/vhost.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace ostler::net {

static_assert(VhostNet::kMakesHeaders == uint64_t{1} << VHOST_NET_F_VIRTIO_NET_HDR);

Result<VhostNet> VhostNet::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd) return VhostNet(std::move(fd));
  const int error = errno;
  if (error == EACCES || error == EPERM)
    return Error(ErrorKind::kPermission,
                 fmt::format("{0} may not be opened: sudo setfacl -m u:$USER:rw {0}", path), error);
  if (error == ENOENT || error == ENODEV || error == ENXIO)
    return Error(ErrorKind::kUnsupported, fmt::format("{} is not there: sudo modprobe vhost_net", path),
                 error);
  return errno_error(fmt::format("cannot open {}", path), error);
}

Result<void> VhostNet::call(unsigned long request, const void* argument, const char* name) {
  if (::ioctl(fd_.get(), request, argument) == 0) return {};
  return errno_error(name, errno);
}

Result<void> VhostNet::own() {
  auto owned = call(VHOST_SET_OWNER, nullptr, "VHOST_SET_OWNER");
  if (owned) return {};
  switch (owned.error().host_errno()) {
    case ENOTTY:
    case EBADF:
    case EINVAL:
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("descriptor {} is not an open {}: look at vhostfd", fd_.get(), kVhostNet),
                   owned.error().host_errno());
    case EBUSY:
      return Error(
          ErrorKind::kBusy,
          fmt::format("descriptor {} has an owner; open {} once for each queue pair", fd_.get(), kVhostNet),
          EBUSY);
    default:
      return owned;
  }
}

Result<uint64_t> VhostNet::features() {
  uint64_t features = 0;
  TRY(call(VHOST_GET_FEATURES, &features, "VHOST_GET_FEATURES"));
  return features;
}

Result<void> VhostNet::set_features(uint64_t features) {
  return call(VHOST_SET_FEATURES, &features, "VHOST_SET_FEATURES");
}

Result<void> VhostNet::set_memory(std::span<const Region> regions) {
  // struct vhost_memory: the count, four bytes of nothing, then the regions.
  const uint32_t head[2] = {static_cast<uint32_t>(regions.size()), 0};
  static_assert(sizeof head == offsetof(vhost_memory, regions));
  std::vector<std::byte> bytes(sizeof head + regions.size() * sizeof(vhost_memory_region));
  std::memcpy(bytes.data(), head, sizeof head);
  for (size_t i = 0; i < regions.size(); ++i) {
    const vhost_memory_region region = {.guest_phys_addr = regions[i].guest_address,
                                        .memory_size = regions[i].size,
                                        .userspace_addr = regions[i].user_address,
                                        .flags_padding = 0};
    std::memcpy(bytes.data() + sizeof head + i * sizeof region, &region, sizeof region);
  }
  return call(VHOST_SET_MEM_TABLE, bytes.data(), "VHOST_SET_MEM_TABLE");
}

Result<void> VhostNet::set_ring(unsigned ring, const Ring& place) {
  const auto state = [&](unsigned number) { return vhost_vring_state{.index = ring, .num = number}; };
  const auto file = [&](int fd) { return vhost_vring_file{.index = ring, .fd = fd}; };
  const vhost_vring_state size = state(place.size), base = state(place.base), poll = state(place.poll_us);
  const vhost_vring_addr address = {.index = ring,
                                    .flags = 0,
                                    .desc_user_addr = place.descriptors,
                                    .used_user_addr = place.used,
                                    .avail_user_addr = place.available,
                                    .log_guest_addr = 0};
  const vhost_vring_file error = file(place.error), told = file(place.call), kick = file(place.kick);
  TRY(call(VHOST_SET_VRING_NUM, &size, "VHOST_SET_VRING_NUM"));
  TRY(call(VHOST_SET_VRING_BASE, &base, "VHOST_SET_VRING_BASE"));
  TRY(call(VHOST_SET_VRING_ADDR, &address, "VHOST_SET_VRING_ADDR"));
  if (place.poll_us != 0)
    TRY(call(VHOST_SET_VRING_BUSYLOOP_TIMEOUT, &poll, "VHOST_SET_VRING_BUSYLOOP_TIMEOUT"));
  TRY(call(VHOST_SET_VRING_ERR, &error, "VHOST_SET_VRING_ERR"));
  TRY(call(VHOST_SET_VRING_CALL, &told, "VHOST_SET_VRING_CALL"));
  return call(VHOST_SET_VRING_KICK, &kick, "VHOST_SET_VRING_KICK");
}

Result<void> VhostNet::forget_events(unsigned ring) {
  const vhost_vring_file none = {.index = ring, .fd = -1};
  TRY(call(VHOST_SET_VRING_KICK, &none, "VHOST_SET_VRING_KICK"));
  return call(VHOST_SET_VRING_CALL, &none, "VHOST_SET_VRING_CALL");
}

Result<void> VhostNet::set_tap(unsigned ring, int tap) {
  const vhost_vring_file file = {.index = ring, .fd = tap};
  return call(VHOST_NET_SET_BACKEND, &file, "VHOST_NET_SET_BACKEND");
}

}  // namespace ostler::net
