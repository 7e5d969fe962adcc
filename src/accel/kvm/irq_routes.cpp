#include "accel/kvm/irq_routes.h"

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
    if ((address.value & ~kApicsMask) != kApics) {
      log::guest_error("apic: MSI to {:#x}, which is no APIC address", address.value);
      return hold();
    }
    auto done = routes_.set_message(gsi_, address, data);
    if (done && !attached_) {
      const int result = routes_.attach(gsi_, fd_);
      attached_ = result >= 0;
      if (!attached_) done = refusal("KVM_IRQFD", result);
    }
    if (done) return;
    hold();
    if (!std::exchange(told_, true)) log::warning(done.error().message());
  }
  void hold() override {
    if (std::exchange(attached_, false)) routes_.detach(gsi_, fd_);
  }

 private:
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
  const auto [found, fresh] = messages_.try_emplace(gsi);
  kvm_irq_routing_msi& message = found->second;
  const auto low = static_cast<uint32_t>(address.value), high = static_cast<uint32_t>(address.value >> 32);
  if (!fresh && message.address_lo == low && message.address_hi == high && message.data == data) return {};
  message = {};
  message.address_lo = low;
  message.address_hi = high;
  message.data = data;
  auto done = set_routes_locked();
  if (!done) messages_.erase(found);  // asked again, it is tried again
  return done;
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
