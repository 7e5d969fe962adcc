#include "accel/kvm/irq_routes.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "accel/kvm/refusal.h"
#include "accel/kvm/request.h"
#include "base/log.h"

namespace ostler::accel::kvm {
namespace {

constexpr uint64_t kApics = 0xfee00000, kApicsMask = 0xfffff;  // SDM Vol. 3A §11.11.1

}  // namespace

class IrqRoutes::Message final : public bus::MessageFd {
 public:
  Message(IrqRoutes& routes, uint32_t gsi, int fd) : routes_(routes), gsi_(gsi), fd_(fd) {}
  ~Message() override {
    Message::hold();
    routes_.release(gsi_);
  }

  void send(GuestPhys address, uint32_t data) override {
    if (!is_for_apics(address)) {
      log::guest_error("apic: MSI to {:#x}, which is no APIC address", address.value);
      return hold();
    }
    auto done = routes_.set_message(gsi_, address, data);
    if (done && !attached_) done = attach();
    if (done) return;
    hold();
    if (!std::exchange(told_, true)) log::warning(done.error().message());
  }
  void hold() override {
    if (std::exchange(attached_, false)) routes_.detach(gsi_, fd_);
  }
  uint32_t gsi() const { return gsi_; }
  static bool is_for_apics(GuestPhys address) { return (address.value & ~kApicsMask) == kApics; }

 private:
  // KVM sends what waits in the eventfd when it gets it, and leaves the count there: it would read as
  // pending, and be sent again each time. A signal that finds KVM there is taken out, so the count goes in
  // anew.
  Result<void> attach() {
    uint64_t count = 0;
    const bool waits = ::read(fd_, &count, sizeof count) == sizeof count;
    const int result = routes_.attach(gsi_, fd_);
    attached_ = result >= 0;
    if (waits) {
      const uint64_t one = 1;
      // Full means that it is signalled.
      [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof one);
    }
    if (!attached_) return refusal("KVM_IRQFD", result);
    return {};
  }

  IrqRoutes& routes_;
  const uint32_t gsi_;
  const int fd_;
  bool attached_ = false, told_ = false;
};

Result<void> IrqRoutes::set_pins(std::vector<kvm_irq_routing_entry> pins) {
  const std::lock_guard lock(mutex_);
  pins_ = std::move(pins);
  return set_routes_locked();
}

Result<void> IrqRoutes::set_message(uint32_t gsi, GuestPhys address, uint32_t data) {
  const std::lock_guard lock(mutex_);
  if (!note_message_locked(gsi, address, data)) return {};
  auto done = set_routes_locked();
  if (!done) messages_.erase(gsi);  // asked again, it is tried again
  return done;
}

bool IrqRoutes::note_message_locked(uint32_t gsi, GuestPhys address, uint32_t data) {
  const auto [found, fresh] = messages_.try_emplace(gsi);
  kvm_irq_routing_msi& message = found->second;
  const auto low = static_cast<uint32_t>(address.value), high = static_cast<uint32_t>(address.value >> 32);
  if (!fresh && message.address_lo == low && message.address_hi == high && message.data == data) return false;
  message = {};
  message.address_lo = low;
  message.address_hi = high;
  message.data = data;
  return true;
}

void IrqRoutes::send(std::span<const Sending> each) {
  if (each.size() > 1) {
    const std::lock_guard lock(mutex_);
    auto before = messages_;
    bool changed = false;
    for (const Sending& one : each)
      if (Message::is_for_apics(one.address) &&
          note_message_locked(static_cast<const Message*>(one.source)->gsi(), one.address, one.data))
        changed = true;
    if (changed && !set_routes_locked())
      messages_ = std::move(before);  // then one by one, as far as that goes
  }
  for (const Sending& one : each) one.source->send(one.address, one.data);
}

Result<void> IrqRoutes::set_routes_locked() {
  RoutingList list(pins_.size() + messages_.size());
  auto* entry = std::copy(pins_.begin(), pins_.end(), list.entries());
  for (const auto& [gsi, message] : messages_) {
    *entry = {};
    entry->gsi = gsi;
    entry->type = KVM_IRQ_ROUTING_MSI;
    entry->u.msi = message;
    ++entry;
  }
  if (const int done = call(vm_, kSetGsiRouting, list.data()); done < 0)
    return refusal("KVM_SET_GSI_ROUTING", done);
  return {};
}

std::unique_ptr<bus::MessageFd> IrqRoutes::take(int fd) {
  const std::lock_guard lock(mutex_);
  // The table has kEnd entries at most, those of the pins among them.
  if (taken_.count() + kFirstFree >= kEnd) return nullptr;
  uint32_t gsi = kFirstFree;
  while (taken_[gsi]) ++gsi;
  taken_.set(gsi);
  return std::make_unique<Message>(*this, gsi, fd);
}

void IrqRoutes::release(uint32_t gsi) {
  const std::lock_guard lock(mutex_);
  taken_.reset(gsi);
  messages_.erase(gsi);  // the kernel forgets it when the table is set the next time
}

int IrqRoutes::attach(uint32_t gsi, int fd, std::optional<int> resample) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = gsi;
  if (resample) {
    irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<uint32_t>(*resample);
  }
  return call(vm_, kIrqFd, &irqfd);
}

// What was signalled before has been delivered when it returns.
void IrqRoutes::detach(uint32_t gsi, int fd) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = gsi;
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  call(vm_, kIrqFd, &irqfd);
}

Result<void> IrqRoutes::attach_level(uint32_t gsi, int fd, int resample) {
  if (const int done = attach(gsi, fd, resample); done < 0) return refusal("KVM_IRQFD", done);
  return {};
}

void IrqRoutes::detach_level(uint32_t gsi, int fd) {
  detach(gsi, fd);
}

}  // namespace ostler::accel::kvm
