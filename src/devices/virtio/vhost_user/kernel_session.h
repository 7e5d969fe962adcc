// The host's kernel as the back end of a network card: vhost-net moves frames between the rings and a tap
// device by itself (linux/vhost.h). One descriptor of /dev/vhost-net for each queue pair; a ring's `index` is
// the queue's number, as with other back ends.
//
// The kernel reaches all memory of this process by our own addresses, so guest memory need not be shared.
#pragma once

#include <sys/epoll.h>

#include <memory>
#include <vector>

#include "base/fd.h"
#include "devices/virtio/vhost_user/session.h"
#include "net/kernel_tap.h"

namespace ostler::virtio::vhost_user {

class KernelSession final : public Session {
 public:
  // Makes this process the owner of the descriptors that `tap` has, once. `tap` outlives the session. Errors
  // name the descriptor's file, and the cure.
  static Result<std::unique_ptr<KernelSession>> open(ostler::net::KernelTap& tap);

  MemoryTable::Whose memory() const override { return MemoryTable::Whose::kAll; }
  bool alive() const override { return !vhosts_.empty(); }
  int fd() const override { return ended_.get(); }
  uint32_t end_events() const override { return EPOLLIN; }
  std::string_view why_ended() const override { return "it cannot use the rings"; }
  void end() override;

  Result<void> set_features(uint64_t features) override;
  Result<void> set_memory(const MemoryTable& table, const MemoryTable::Entry& rings) override;
  Result<void> start_ring(unsigned index, const RingPlace& place, int kick, int call, bool enabled) override;
  Result<void> enable_ring(unsigned index, bool enabled) override;
  Result<void> stop_ring(unsigned index) override;
  void set_link(bool up) override;

 private:
  explicit KernelSession(ostler::net::KernelTap& tap) : tap_(tap) {}
  Result<void> own();
  Result<void> end_with(Error error);
  template <class Operation>
  Result<void> each(Operation operation);

  ostler::net::KernelTap& tap_;
  std::vector<ostler::net::VhostNet> vhosts_;  // none: the session has ended
  Fd ended_;                                   // an eventfd, of the kernel's errors and of end()
  uint64_t known_ = 0;                         // features that the kernel is told of
};

}  // namespace ostler::virtio::vhost_user
