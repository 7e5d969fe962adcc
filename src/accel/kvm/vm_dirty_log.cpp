// Which pages the guest has written, as KVM tells: a bitmap of each slot (KVM_GET_DIRTY_LOG), or a ring of
// each vCPU (dirty_ring.h). A page is protected again before anybody hears of it: what is written from then
// on is told the next time.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "accel/kvm/refusal.h"
#include "accel/kvm/vm.h"
#include "base/log.h"

namespace ostler::accel::kvm {

Result<void> Vm::set_up_dirty_log(uint32_t ring_entries) {
  kvm_enable_cap enable{};
  if (ring_entries == 0) {
    enable.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    enable.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    clears_itself_ =
        (system_->extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0 &&
        call(fd_.get(), kEnableCap, &enable) >= 0;
    return {};
  }
  const auto most = static_cast<uint64_t>(std::max(0, system_->extension(KVM_CAP_DIRTY_LOG_RING)));
  if (most == 0)
    return Error(
        ErrorKind::kUnsupported,
        "dirty-ring-size: this host's KVM has no rings of written pages (KVM_CAP_DIRTY_LOG_RING): leave "
        "it out");
  if (DirtyRing::bytes(ring_entries) > most)
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("dirty-ring-size: this host's KVM has rings of {} pages at most, and {} are asked "
                    "for: say dirty-ring-size={}",
                    most / DirtyRing::bytes(1), ring_entries, most / DirtyRing::bytes(1)));
  enable.cap = KVM_CAP_DIRTY_LOG_RING;
  enable.args[0] = DirtyRing::bytes(ring_entries);
  if (const int done = call(fd_.get(), kEnableCap, &enable); done < 0)
    return refusal("KVM_CAP_DIRTY_LOG_RING", done).with_context("dirty-ring-size");
  ring_entries_ = ring_entries;
  return {};
}

// Rings are read while their vCPUs are outside KVM_RUN, where they have told all: some processors keep a list
// of their own first (api.rst §8.29). For the bitmaps the kernel sees to that itself.
template <class F>
void Vm::outside_guests(F&& f) {
  const auto locked = [&] {
    const std::lock_guard lock(mutex_);
    f();
  };
  if (ring_entries_ != 0)
    gate_.run_closed(locked);
  else
    locked();
}

void Vm::set_dirty_log(bool on) {
  outside_guests([&] {
    dirty_log_ = on;
    for (const auto& [address, slot] : slots_) set_slot(address, slot, slot.size);
    if (!on) empty_rings_locked();
  });
}

void Vm::collect_dirty() {
  outside_guests([&] { collect_locked(); });
}

void Vm::dirty_ring_full(int vcpu) {
  const std::lock_guard lock(mutex_);
  if (const auto found = rings_.find(vcpu); found != rings_.end()) collect_ring_locked(found->second);
}

void Vm::collect_locked() {
  if (ring_entries_ != 0) return collect_rings_locked();
  for (const auto& [address, slot] : slots_) collect_bitmap_locked(slot);
}

// KVM forgets what it noted of a slot that goes, and its number may become another's.
void Vm::collect_from_locked(const Slot& slot) {
  if (!dirty_log_) return;
  if (ring_entries_ != 0)
    collect_rings_locked();
  else
    collect_bitmap_locked(slot);
}

void Vm::collect_bitmap_locked(const Slot& slot) {
  if (slot.read_only) return;
  std::vector<uint64_t> bitmap((slot.size / kPageSize + 63) / 64);
  kvm_dirty_log wanted{};
  wanted.slot = slot.id;
  wanted.dirty_bitmap = bitmap.data();
  if (call(fd_.get(), kGetDirtyLog, &wanted) < 0) return;
  const bool any = std::any_of(bitmap.begin(), bitmap.end(), [](uint64_t word) { return word != 0; });
  if (!any) return;
  if (clears_itself_) {
    kvm_clear_dirty_log again{};
    again.slot = slot.id;
    again.num_pages = static_cast<uint32_t>(slot.size / kPageSize);
    again.dirty_bitmap = bitmap.data();
    // If it fails, KVM goes on to tell these pages.
    call(fd_.get(), kClearDirtyLog, &again);
  }
  for (uint64_t page = 0; page < slot.size / kPageSize; ++page)
    if ((bitmap[page / 64] >> page % 64 & 1) != 0) slot.ram->note_dirty(slot.offset + page * kPageSize);
}

void Vm::collect_rings_locked() {
  for (auto& [vcpu, ring] : rings_) collect_ring_locked(ring);
}

void Vm::collect_ring_locked(DirtyRing& ring) {
  std::vector<DirtyPage> pages;
  const bool complete = ring.harvest(pages);
  if (!pages.empty()) reset_rings_locked();
  if (!dirty_log_) return;
  note_locked(pages);
  if (complete) return;
  note_all_locked();
  if (!std::exchange(told_overrun_, true))
    log::warning(
        "this host's KVM lets its rings of written pages run over: all memory counts as written when they "
        "do; "
        "leave dirty-ring-size out, or make it larger");
}

void Vm::empty_rings_locked() {
  std::vector<DirtyPage> forgotten;
  for (auto& [vcpu, ring] : rings_) static_cast<void>(ring.harvest(forgotten));
  if (!forgotten.empty()) reset_rings_locked();
}

// The kernel has the entries back, and protects their pages.
void Vm::reset_rings_locked() {
  int done = 0;
  // A signal may end it half-way.
  do {
    done = call(fd_.get(), kResetDirtyRings);
  } while (done == -EINTR);
  if (done < 0 && !std::exchange(told_reset_, true))
    log::warning(
        fmt::format("KVM refuses KVM_RESET_DIRTY_RINGS ({}): what the guest writes again is not noted",
                    std::strerror(-done)));
}

void Vm::note_locked(const std::vector<DirtyPage>& pages) {
  if (pages.empty()) return;
  std::map<uint32_t, const Slot*> by_id;
  for (const auto& [address, slot] : slots_) by_id.emplace(slot.id, &slot);
  for (const DirtyPage& page : pages) {
    const auto found = by_id.find(page.slot);
    if (found == by_id.end()) continue;
    const Slot& slot = *found->second;
    if (page.number < slot.size / kPageSize) slot.ram->note_dirty(slot.offset + page.number * kPageSize);
  }
}

void Vm::note_all_locked() {
  for (const auto& [address, slot] : slots_)
    for (uint64_t at = 0; !slot.read_only && at < slot.size; at += kPageSize)
      slot.ram->note_dirty(slot.offset + at);
}

}  // namespace ostler::accel::kvm
