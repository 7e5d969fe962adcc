#include "mmu/tlb.h"

#include <algorithm>

namespace ostler::mmu {

Tlb::Tlb(Memory memory) {
  drop(0);
  drop(kEntries - 1);
  if (memory == Memory::kZero) return;
  for (unsigned slot = 1; slot < kEntries; ++slot) drop(slot);
  host.fill(nullptr);
  delta.fill(0);
  phys.fill(0);
  fetch_phys.fill(0);
}

void Tlb::fill(const Fill& fill) {
  const unsigned slot = slot_of(fill.linear);
  const uint64_t page = page_of(fill.linear);
  const uint64_t entry = fill.phys.value | (fill.global ? kGlobal : 0) | (fill.user_page ? kUserPage : 0) |
                         (fill.page_size >= uint64_t{1} << 30 ? kGib
                          : fill.page_size > kPageSize        ? kMib
                                                              : 0);
  const auto note = [&] {
    (fill.global ? global_ : non_global_).add(slot);
    if (fill.page_size >= uint64_t{1} << 30)
      gib_filter_[hash(page >> 30)] = true;
    else if (fill.page_size > kPageSize)
      mib_filter_[hash(page >> 22)] = true;
  };
  if (fill.fetch) {
    if (fetch_tag[slot] == page && fetch_phys[slot] == entry) return;
    fetch_tag[slot] = page;
    fetch_phys[slot] = entry;
    exec_id[slot] = 0;
    exec_shared[slot] = 0;
    return note();
  }
  const bool same = holds(slot, page) && phys[slot] == entry && host[slot] == fill.host;
  if (!same) {
    drop_data(slot);
    phys[slot] = entry;
    host[slot] = fill.host;
    delta[slot] = reinterpret_cast<uint64_t>(fill.host) - page;
    note();
  }
  if (fill.host != nullptr) {
    if (fill.read) read_tag[slot] = page;
    if (fill.write) {
      write_tag[slot] = page;
      const size_t bucket = bucket_of(fill.host);
      uint16_t& known = write_slots_[bucket];
      const auto here = static_cast<uint16_t>(slot + 1);
      if (known == kNoSlot || (known != kManySlots && !writes_to(known - 1u, bucket)))
        known = here;
      else if (known != here)
        known = kManySlots;
    }
  }
}

void Tlb::clear() {
  if (global_.overflowed() || non_global_.overflowed()) {
    for (unsigned slot = 0; slot < kEntries; ++slot) drop(slot);
  } else {
    for (unsigned i = 0; i < global_.count; ++i) drop(global_.slots[i]);
    for (unsigned i = 0; i < non_global_.count; ++i) drop(non_global_.slots[i]);
  }
  global_.count = non_global_.count = 0;
  mib_filter_.fill(false);
  gib_filter_.fill(false);
  write_slots_.fill(kNoSlot);
}

void Tlb::clear_non_global() {
  // A slot may hold a global page by now: it stays.
  const auto drop_if_local = [this](unsigned slot) {
    if (!is_global(slot)) drop_data(slot);
    if (!is_global_code(slot)) drop_fetch(slot);
  };
  if (non_global_.overflowed()) {
    for (unsigned slot = 0; slot < kEntries; ++slot) drop_if_local(slot);
  } else {
    for (unsigned i = 0; i < non_global_.count; ++i) drop_if_local(non_global_.slots[i]);
  }
  non_global_.count = 0;
}

void Tlb::clear_page(uint64_t linear) {
  const unsigned slot = slot_of(linear);
  if (holds(slot, page_of(linear))) drop_data(slot);
  if (fetch_tag[slot] == page_of(linear)) drop_fetch(slot);
}

void Tlb::clear_around(uint64_t linear) {
  clear_page(linear);
  // 2-MByte pages are dropped by the 4 MiB: one filter serves all paging modes.
  if (mib_filter_[hash(linear >> 22)]) clear_range(linear >> 22 << 22, uint64_t{1} << 22);
  if (gib_filter_[hash(linear >> 30)]) clear_range(linear >> 30 << 30, uint64_t{1} << 30);
}

void Tlb::clear_range(uint64_t from, uint64_t size) {
  const auto drop_if_inside = [&](unsigned slot) {
    if (read_tag[slot] - from < size || write_tag[slot] - from < size) drop_data(slot);
    if (fetch_tag[slot] - from < size) drop_fetch(slot);
  };
  const unsigned first = slot_of(from);
  const auto count = static_cast<unsigned>(std::min<uint64_t>(size >> 12, kEntries));
  for (unsigned i = 0; i < count; ++i) drop_if_inside((first + i) % kEntries);
}

void Tlb::clear_fetch_tags() {
  for (unsigned slot = 0; slot < kEntries; ++slot) drop_fetch(slot);
}

void Tlb::clear_write_tags() {
  for (unsigned slot = 0; slot < kEntries; ++slot) write_tag[slot] = never(slot);
  write_slots_.fill(kNoSlot);
}

void Tlb::clear_write_tags_of(const std::byte* host_page) {
  const size_t bucket = bucket_of(host_page);
  uint16_t& known = write_slots_[bucket];
  if (known == kNoSlot) return;
  // An empty slot may match by accident: it is cleared again.
  if (known != kManySlots) {
    const unsigned slot = known - 1u;
    if (host[slot] == host_page) write_tag[slot] = never(slot);
    return;
  }
  // Few match, so that several are looked at at once.
  constexpr unsigned kStep = 32;
  known = kNoSlot;
  for (unsigned first = 0; first < kEntries; first += kStep) {
    bool any = false;
    for (unsigned slot = first; slot < first + kStep; ++slot) any |= bucket_of(host[slot]) == bucket;
    if (!any) continue;
    for (unsigned slot = first; slot < first + kStep; ++slot) {
      if (host[slot] == host_page) write_tag[slot] = never(slot);
      if (writes_to(slot, bucket)) known = known == kNoSlot ? static_cast<uint16_t>(slot + 1) : kManySlots;
    }
  }
}

}  // namespace ostler::mmu
