// virtio-net (Virtio 1.2 §5.1) whose frames another process carries, as DPDK's and Open vSwitch's ports do,
// or the host's kernel (vhost-net).
//
// The back end has the receive and transmit queues; the control queue is ours. The back end gives all that
// comes to it, so the commands that choose frames are not offered. Without a back end the link is down:
// frames to be sent are lost, buffers for received ones wait.
#pragma once

#include <memory>

#include "devices/virtio/net/device.h"
#include "devices/virtio/vhost_user/device.h"
#include "net/kernel_tap.h"

namespace ostler::virtio::vhost_user {

class NetDevice final : public VhostUserDevice {
 public:
  // Connects to the back end. `pairs`: how many queue pairs it is to have, when `options.mq` asks for all.
  // Errors: what the back end lacks.
  static Result<std::unique_ptr<NetDevice>> create(memory::AddressSpace& memory, event::Loop& loop,
                                                   const net::Options& options, unsigned pairs,
                                                   const Address& address);
  // Whose frames the host's kernel carries to and from `tap`, which has vhost-net and outlives the card.
  static Result<std::unique_ptr<NetDevice>> create(memory::AddressSpace& memory, event::Loop& loop,
                                                   const net::Options& options, ostler::net::KernelTap& tap);
  ~NetDevice() override { leave(); }
  uint16_t type() const override { return kTypeNet; }
  // As net::NetDevice::set_link().
  void set_link(bool up);

 private:
  static Result<std::unique_ptr<NetDevice>> make(memory::AddressSpace& memory, event::Loop& loop,
                                                 const net::Options& options, unsigned pairs, Parts parts);
  NetDevice(memory::AddressSpace& memory, event::Loop& loop, const net::Options& options, unsigned pairs,
            uint64_t offered, Parts parts);
  uint64_t device_features() const override { return offered_; }
  uint64_t back_end_features() const override;
  void config_locked(std::vector<std::byte>& config) override;
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  // A frame's header is shorter without it.
  bool modern_requests() const override { return has_feature(VIRTIO_F_VERSION_1); }
  void stopped_locked() override;
  bool has_ring(unsigned queue) const override;
  void serve_locked(Queue& queue) override;
  bool wants_rings() const override { return link_up_; }
  bool enables_ring(unsigned queue) const override { return queue / 2 < active_pairs_; }
  bool keeps_requests(unsigned queue) const override { return queue % 2 == 0; }
  void refuse_locked(Queue& queue, Chain chain) override;
  Result<void> accept_locked(Session& session, std::vector<std::byte> config) override;
  void connection_changed_locked() override { config_changed_locked(); }
  void device_state(state::Archive& archive) override;
  void restored_locked() override;

  bool command_locked(const net::ControlHeader& header, std::span<const std::byte> data);

  const net::Options options_;
  const unsigned pairs_;
  const uint64_t offered_;
  const config::MacAddress preset_mac_;
  // Guarded by mutex_.
  config::MacAddress mac_;
  bool link_up_ = true;  // this end of the cable
  bool announce_ = false;
  uint16_t active_pairs_ = 1;
};

}  // namespace ostler::virtio::vhost_user
