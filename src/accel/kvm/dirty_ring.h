// A vCPU's ring of the pages that its guest has written (KVM_CAP_DIRTY_LOG_RING; the kernel's
// Documentation/virt/kvm/api.rst §8.29), in memory that the kernel shares with us. Each entry goes round:
//
//     free --the guest writes--> dirty --harvest()--> harvested --KVM_RESET_DIRTY_RINGS--> free
//
// The page is protected again by the last step. Under the lock of its owner.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "accel/kvm/mapping.h"
#include "base/result.h"

namespace ostler::accel::kvm {

struct DirtyPage {
  uint32_t slot;    // its address space in the upper half
  uint64_t number;  // within the slot
};

class DirtyRing {
 public:
  // What KVM takes: a power of two; fewer leave no room beside those that it holds back.
  static constexpr uint32_t kLeastEntries = 1024, kMostEntries = 65536;
  static constexpr uint64_t bytes(uint32_t entries) { return entries * sizeof(kvm_dirty_gfn); }

  // Of a vCPU whose VM was told of `entries`. Errors: those of mmap.
  static Result<DirtyRing> of_vcpu(int fd, uint32_t entries);
  // While the vCPU is outside KVM_RUN: appends what the ring tells, oldest first. False: the guest has
  // written more pages, and they are lost. A kernel that runs code itself exits before that; one that
  // emulates it looks at its rings too seldom.
  [[nodiscard]] bool harvest(std::vector<DirtyPage>& pages);

 private:
  DirtyRing(Mapping mapping, uint32_t entries) : mapping_(std::move(mapping)), entries_(entries) {}

  Mapping mapping_;
  uint32_t entries_;
  kvm_dirty_gfn& entry(uint32_t index) const {
    return reinterpret_cast<kvm_dirty_gfn*>(mapping_.data())[index & (entries_ - 1)];
  }
  uint32_t next_ = 0;  // free-running
  bool overrun_ = false;
};

}  // namespace ostler::accel::kvm
