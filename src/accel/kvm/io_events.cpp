#include "accel/kvm/io_events.h"

#include "accel/kvm/request.h"
#include "bus/doorbells.h"

namespace ostler::accel::kvm {

void IoEvents::add(const memory::FlatRange& range) {
  const auto* device = dynamic_cast<const bus::Doorbells*>(range.handler);
  if (device == nullptr) return;
  for (const bus::Doorbell& bell : device->doorbells()) {
    if (bell.offset < range.offset || bell.offset - range.offset >= range.size()) continue;
    kvm_ioeventfd event{};
    event.addr = range.first.value + (bell.offset - range.offset);
    event.fd = bell.fd;
    if (bell.value) {
      event.len = 4;
      event.datamatch = *bell.value;
      event.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
    }
    if (call(fd_, kIoEventFd, &event) >= 0) events_.emplace(event.addr, event);
  }
}

void IoEvents::remove(const memory::FlatRange& range) {
  const auto first = events_.lower_bound(range.first.value), end = events_.upper_bound(range.last.value);
  for (auto it = first; it != end; ++it) {
    it->second.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    call(fd_, kIoEventFd, &it->second);
  }
  events_.erase(first, end);
}

}  // namespace ostler::accel::kvm
