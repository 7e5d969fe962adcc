// Writes that KVM collects while the guest runs on (bus/late_writes.h; the kernel's
// Documentation/virt/kvm/api.rst, KVM_REGISTER_COALESCED_MMIO): which addresses, and the ring where they
// wait, one for all vCPUs, in a page that each vCPU's mapping shows. It is emptied after each KVM_RUN, before
// anything else is done about the exit: so no access to a device, by whatever vCPU, comes before a write that
// was earlier.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "memory/address.h"
#include "memory/flat_view.h"

namespace ostler::accel::kvm {

// Of the memory space, or of the ports. Under the lock of its owner.
class LateZones {
 public:
  LateZones(int vm, bool ports) : vm_(vm), ports_(ports) {}
  // Ranges of the space as they come and go. What KVM does not take is left to io_write().
  void add(const memory::FlatRange& range);
  void remove(const memory::FlatRange& range);
  size_t count() const { return zones_.size(); }

 private:
  const int vm_;
  const bool ports_;
  std::multimap<uint64_t, kvm_coalesced_mmio_zone> zones_;  // by address
};

// On vCPUs' threads, outside KVM_RUN.
class LateRing {
 public:
  // Its page within a vCPU's mapping; 0: this KVM has none.
  explicit LateRing(unsigned page) : page_(page) {}
  bool exists() const { return page_ != 0; }

  // Calls write(is_port, address, size, value) for each, in their order. One vCPU at a time; another waits
  // until what it found has been written.
  template <class Write>
  void drain(std::byte* mapping, Write&& write) {
    if (page_ == 0) return;
    auto* const ring = reinterpret_cast<Head*>(mapping + page_ * kPageSize);
    const auto* const entries = reinterpret_cast<const kvm_coalesced_mmio*>(ring + 1);
    const auto is_empty = [ring] {
      return __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) ==
             __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);
    };
    if (is_empty()) return;
    const std::lock_guard lock(mutex_);
    // What comes meanwhile is another vCPU's, which looks here too.
    for (uint32_t done = 0; done < kEntries && !is_empty(); ++done) {
      const uint32_t first = ring->first;
      if (first >= kEntries) return;
      const kvm_coalesced_mmio entry = entries[first];
      uint64_t value = 0;
      const auto size = entry.len < sizeof value ? entry.len : uint32_t{sizeof value};
      std::memcpy(&value, entry.data, size);
      if (size != 0) write(entry.pio != 0, GuestPhys{entry.phys_addr}, size, value);
      // Only now: whoever finds the ring empty finds the registers written.
      __atomic_store_n(&ring->first, (first + 1) % kEntries, __ATOMIC_RELEASE);
    }
  }

  // struct kvm_coalesced_mmio_ring without its array.
  struct Head {
    uint32_t first, last;
  };
  static constexpr uint32_t kEntries = (kPageSize - sizeof(Head)) / sizeof(kvm_coalesced_mmio);

 private:
  const unsigned page_;
  std::mutex mutex_;
};

}  // namespace ostler::accel::kvm
