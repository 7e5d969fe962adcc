#include "accel/kvm/dirty_ring.h"

#include "memory/address.h"

namespace ostler::accel::kvm {

Result<DirtyRing> DirtyRing::of_vcpu(int fd, uint32_t entries) {
  constexpr uint64_t kOffset = KVM_DIRTY_LOG_PAGE_OFFSET * kPageSize;
  TRY_ASSIGN(Mapping mapping, Mapping::of_file(fd, bytes(entries), kOffset));
  return DirtyRing(std::move(mapping), entries);
}

bool DirtyRing::harvest(std::vector<DirtyPage>& pages) {
  // The kernel writes the flags last, and takes an entry back once it sees ours: acquire before what it tells
  // is read, release after.
  const auto is_dirty = [&](uint32_t index) {
    return __atomic_load_n(&entry(index).flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_DIRTY;
  };
  const auto give_back = [&](uint32_t index) {
    __atomic_store_n(&entry(index).flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
  };
  if (overrun_) {
    // The kernel has gone round us: it waits for some entries once more that it has had back.
    uint32_t ahead = 0;
    while (ahead < entries_ && !is_dirty(next_ + ahead)) ++ahead;
    if (ahead == entries_) return true;
    for (; ahead != 0; --ahead) give_back(next_++);
    overrun_ = false;
  }
  uint32_t seen = 0;
  for (; seen < entries_ && is_dirty(next_); ++seen) {
    pages.push_back({.slot = entry(next_).slot, .number = entry(next_).offset});
    give_back(next_++);
  }
  overrun_ = seen == entries_;
  return !overrun_;
}

}  // namespace ostler::accel::kvm
