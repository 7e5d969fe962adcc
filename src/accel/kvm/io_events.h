// The doorbells of devices (bus/doorbells.h), which KVM signals by KVM_IOEVENTFD while the guest runs on. One
// that KVM does not take is left to io_write(). Under the lock of its owner.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <map>

#include "memory/flat_view.h"

namespace ostler::accel::kvm {

class IoEvents {
 public:
  explicit IoEvents(int fd) : fd_(fd) {}
  // Ranges of the memory space as they come and go.
  void add(const memory::FlatRange& range);
  void remove(const memory::FlatRange& range);
  size_t count() const { return events_.size(); }

 private:
  const int fd_;
  std::multimap<uint64_t, kvm_ioeventfd> events_;  // by guest-physical address
};

}  // namespace ostler::accel::kvm
