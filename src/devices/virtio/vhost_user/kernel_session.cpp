#include "devices/virtio/vhost_user/kernel_session.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "devices/virtio/device.h"
#include "devices/virtio/net/offloads.h"
#include "devices/virtio/net/wire.h"

namespace ostler::virtio::vhost_user {
namespace {

using ostler::net::VhostNet;

// Virtio 1.2 §5.1.6.1: with num_buffers, and without.
constexpr size_t kHeader = 12, kShortHeader = 10;

constexpr uint64_t kWanted = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_INDIRECT_DESC) |
                             feature(net::VIRTIO_NET_F_MRG_RXBUF) | VhostNet::kMakesHeaders;

}  // namespace

Result<std::unique_ptr<KernelSession>> KernelSession::open(ostler::net::KernelTap& tap) {
  std::unique_ptr<KernelSession> session(new KernelSession(tap));
  TRY(session->own());
  return session;
}

Result<void> KernelSession::own() {
  const ostler::net::TapDevice& tap = tap_.device();
  vhosts_ = tap_.take_vhosts();
  ended_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ended_) return errno_error("eventfd", errno);
  known_ = kWanted;
  for (VhostNet& vhost : vhosts_) {
    TRY(vhost.own());
    TRY_ASSIGN(const uint64_t features, vhost.features());
    known_ &= features;
  }
  if ((known_ & feature(VIRTIO_F_VERSION_1)) == 0)
    return Error(ErrorKind::kUnsupported, "it does not know Virtio 1 (VIRTIO_F_VERSION_1)");
  if (!tap.vnet_header && (known_ & VhostNet::kMakesHeaders) == 0)
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("frames of the tap device {} have no headers; leave vnet_hdr=off out", tap.name));
  for (size_t i = 1; i < tap.queues.size(); ++i) ostler::net::set_tap_queue(tap.queues[i], false);
  queues_ = vhosts_.size();
  features_ = (known_ & ~VhostNet::kMakesHeaders) | net::features_of(tap.offloads) |
              (queues_ > 1 ? feature(net::VIRTIO_NET_F_MQ) : 0);
  return {};
}

void KernelSession::end() {
  vhosts_.clear();  // waits for the kernel's threads
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(ended_.get(), &one, sizeof one);
}

Result<void> KernelSession::end_with(Error error) {
  end();
  return error;
}

// An error ends the session.
template <class Operation>
Result<void> KernelSession::each(Operation operation) {
  for (VhostNet& vhost : vhosts_)
    if (Result<void> done = operation(vhost); !done) return end_with(std::move(done).error());
  return {};
}

Result<void> KernelSession::set_features(uint64_t features) {
  const ostler::net::TapDevice& tap = tap_.device();
  const bool wide = (features & (feature(VIRTIO_F_VERSION_1) | feature(net::VIRTIO_NET_F_MRG_RXBUF))) != 0;
  for (const Fd& queue : tap.queues)
    if (tap.vnet_header && !ostler::net::set_tap_header(queue, wide ? kHeader : kShortHeader))
      return end_with(errno_error("cannot set the header of " + tap.name, errno));
  if (tap.vnet_header)
    ostler::net::set_tap_offloads(tap.queues[0], net::offloads_of(features) & tap.offloads);
  const uint64_t told =
      (features & known_ & ~VhostNet::kMakesHeaders) | (tap.vnet_header ? 0 : VhostNet::kMakesHeaders);
  return each([told](VhostNet& vhost) { return vhost.set_features(told); });
}

Result<void> KernelSession::set_memory(const MemoryTable& table, const MemoryTable::Entry& rings) {
  std::vector<VhostNet::Region> regions;
  const auto add = [&regions](const MemoryRegion& region) {
    regions.push_back(
        {.guest_address = region.guest_address, .size = region.size, .user_address = region.user_address});
  };
  for (const auto& entry : table.entries()) add(entry.region);
  add(rings.region);
  return each([&regions](VhostNet& vhost) { return vhost.set_memory(regions); });
}

Result<void> KernelSession::start_ring(unsigned index, const RingPlace& place, int kick, int call,
                                       bool enabled) {
  if (!alive()) return Error(ErrorKind::kIo, "the session has ended");
  auto set = vhosts_[index / 2].set_ring(index % 2, {.size = place.size,
                                                     .base = place.base,
                                                     .descriptors = place.descriptors,
                                                     .available = place.available,
                                                     .used = place.used,
                                                     .kick = kick,
                                                     .call = call,
                                                     .error = ended_.get(),
                                                     .poll_us = tap_.poll_us()});
  if (!set) return end_with(std::move(set).error());
  return enabled ? enable_ring(index, true) : Result<void>();
}

// The kernel gives frames to each queue of a tap device that is attached: one without a ring is not.
Result<void> KernelSession::enable_ring(unsigned index, bool enabled) {
  if (!alive()) return Error(ErrorKind::kIo, "the session has ended");
  const Fd& queue = tap_.device().queues[index / 2];
  const bool may_rest = index >= 2 && index % 2 == 0;
  if (may_rest && enabled) ostler::net::set_tap_queue(queue, true);
  auto set = vhosts_[index / 2].set_tap(index % 2, enabled ? queue.get() : -1);
  if (!set) return end_with(std::move(set).error());
  if (may_rest && !enabled) ostler::net::set_tap_queue(queue, false);
  return {};
}

Result<void> KernelSession::stop_ring(unsigned index) {
  TRY(enable_ring(index, false));
  auto done = vhosts_[index / 2].forget_events(index % 2);
  return done ? Result<void>() : end_with(std::move(done).error());
}

void KernelSession::set_link(bool up) {
  ostler::net::set_tap_carrier(tap_.device().queues[0], up);
}

}  // namespace ostler::virtio::vhost_user
