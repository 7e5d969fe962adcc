// Where KVM takes interrupts (the kernel's Documentation/virt/kvm/api.rst, KVM_SET_GSI_ROUTING): what each
// global system interrupt means, a pin of a chip or a message; and eventfds that raise one (KVM_IRQFD). The
// table is replaced as a whole. Any thread.
#pragma once

#include <linux/kvm.h>

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "bus/message_fds.h"
#include "memory/address.h"

namespace ostler::accel::kvm {

class IrqRoutes final : public bus::MessageFds {
 public:
  // Interrupts below kFirstFree are the chips'; eventfds get the others.
  static constexpr uint32_t kFirstFree = 64, kEnd = 4096;

  explicit IrqRoutes(int vm) : vm_(vm) {}

  // The pins of the kernel's chips: replaces them. Errors: KVM's.
  Result<void> set_pins(std::vector<kvm_irq_routing_entry> pins);
  // `gsi` is this message from now on. Errors: KVM's.
  Result<void> set_message(uint32_t gsi, GuestPhys address, uint32_t data);
  std::unique_ptr<bus::MessageFd> take(int fd) override;
  void send(std::span<const Sending> each) override;

  // A level: a signal of `fd` raises the pin `gsi` of a chip in the kernel. At the end of the interrupt it
  // falls, and `resample` is signalled: a source that still wants the interrupt signals `fd` again. Errors:
  // KVM's.
  Result<void> attach_level(uint32_t gsi, int fd, int resample);
  void detach_level(uint32_t gsi, int fd);

 private:
  class Message;
  // Whether that is a change.
  bool note_message_locked(uint32_t gsi, GuestPhys address, uint32_t data);
  Result<void> set_routes_locked();
  int attach(uint32_t gsi, int fd, std::optional<int> resample = {});
  void detach(uint32_t gsi, int fd);
  void release(uint32_t gsi);

  const int vm_;
  std::mutex mutex_;
  std::vector<kvm_irq_routing_entry> pins_;
  std::map<uint32_t, kvm_irq_routing_msi> messages_;  // by gsi
  std::bitset<kEnd> taken_;
};

}  // namespace ostler::accel::kvm
