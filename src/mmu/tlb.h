// One context of the software TLB: direct-mapped, plain arrays that translated code can index from a base
// pointer. A tag is the linear page it is valid for; one unsigned compare covers validity, permission and
// page crossing:
//     linear - tag[slot] <= 4096 - size
// Tags of a slot that must not hit (nothing there, no permission, MMIO, code pages, tracked pages) hold the
// address of a page that belongs to another slot, so no linear address whatever can match; nor to the slot
// behind, so that none lies a few bytes before the tag, where sums wrap around. One vCPU thread; no sharing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "memory/address.h"
#include "mmu/access.h"

namespace ostler::mmu {

// What translated code indexes.
struct TlbArrays {
  // Enough for the pages of a large program: what is 64 MiB apart takes each other's place.
  static constexpr unsigned kEntries = 16384;

  alignas(64) std::array<uint64_t, kEntries> read_tag;
  std::array<uint64_t, kEntries> write_tag;
  std::array<uint64_t, kEntries> fetch_tag;
  std::array<std::byte*, kEntries> host;  // page
  std::array<uint64_t, kEntries> delta;   // from linear to host addresses of the page
  std::array<uint64_t, kEntries> phys;    // page | flags; of data
  std::array<uint64_t, kEntries>
      fetch_phys;  // of code, which has the slot's other half: neither evicts the other
  // For translated code: a number that its owner has given to this linear page at this physical page, valid
  // while the fetch tag is; 0: none.
  std::array<uint32_t, kEntries> exec_id;
  // The same for code that runs at several linear pages: the linear page less a number that is given to the
  // physical page, below 2^24 and no multiple of 4096; 0: none. Less this, no linear page but the slot's own
  // is such a number.
  std::array<uint64_t, kEntries> exec_shared;
};

class Tlb : public TlbArrays {
 public:
  enum class Memory : bool { kAny, kZero };
  // In memory that is all zeros only what is not zero when empty is written, so that pages of it that are not
  // used never come to be.
  explicit Tlb(Memory memory = Memory::kAny);

  static constexpr unsigned slot_of(uint64_t linear) { return (linear >> 12) & (kEntries - 1); }
  static constexpr uint64_t never(unsigned slot) {
    return slot == 0 || slot == kEntries - 1 ? uint64_t{kEntries / 2} << 12 : 0;
  }
  static constexpr uint64_t page_of(uint64_t linear) { return linear & ~kPageMask; }

  // The host address of `size` bytes at `linear`, or null.
  std::byte* find(const std::array<uint64_t, kEntries>& tags, uint64_t linear, size_t size) const {
    const unsigned slot = slot_of(linear);
    if (linear - tags[slot] <= kPageSize - size) [[likely]]
      return host[slot] + (linear - tags[slot]);
    return nullptr;
  }

  struct Fill {
    uint64_t linear;  // any address of the page
    GuestPhys phys;   // page
    std::byte* host;  // page; null: not RAM, then only fetch may be allowed
    bool read, write, fetch;
    bool global, user_page;
    uint64_t page_size;  // bytes: 4 KiB, or of the large page that this one is a part of
  };
  // Adds permissions to the page's entry, or replaces the slot's; with `fetch`, and nothing else, the one for
  // code.
  void fill(const Fill& fill);

  // ---- invalidation; costs grow with what was filled since the last ----
  void clear();
  void clear_non_global();
  void clear_page(uint64_t linear);
  void clear_fetch_tags();
  void drop_fetch(unsigned slot) {
    fetch_tag[slot] = never(slot);
    exec_id[slot] = 0;
    exec_shared[slot] = 0;
  }
  // The numbers mean nothing any more.
  void forget_exec_ids() {
    exec_id.fill(0);
    exec_shared.fill(0);
  }
  void clear_write_tags();
  void clear_write_tags_of(const std::byte* host_page);

  // INVLPG: all of the page that `linear` lies in, which may be a large one of which several parts are here.
  void clear_around(uint64_t linear);
  // Whether `linear` may lie in a large page of which parts were entered since the last clear().
  bool may_be_large(uint64_t linear) const {
    return mib_filter_[hash(linear >> 22)] || gib_filter_[hash(linear >> 30)];
  }

  bool is_user_page(unsigned slot) const { return (phys[slot] & kUserPage) != 0; }
  bool is_global(unsigned slot) const { return (phys[slot] & kGlobal) != 0; }
  bool is_global_code(unsigned slot) const { return (fetch_phys[slot] & kGlobal) != 0; }
  // 4 KiB, 4 MiB (for 2 MiB too) or 1 GiB: as much as invalidation wants to know.
  uint64_t page_size(unsigned slot) const {
    return (phys[slot] & kGib) != 0   ? uint64_t{1} << 30
           : (phys[slot] & kMib) != 0 ? uint64_t{1} << 22
                                      : kPageSize;
  }
  GuestPhys phys_page(unsigned slot) const { return {phys[slot] & ~kPageMask}; }

  static constexpr uint64_t kGlobal = 1, kUserPage = 2, kMib = 4, kGib = 8;  // in the low bits of phys

 private:
  static constexpr unsigned kFilter = 512;
  static constexpr unsigned kMostFilled = 1024;
  static unsigned hash(uint64_t frame) { return static_cast<unsigned>(frame ^ (frame >> 9)) % kFilter; }
  void clear_range(uint64_t from, uint64_t size);
  void drop_data(unsigned slot) { read_tag[slot] = write_tag[slot] = never(slot); }
  void drop(unsigned slot) {
    drop_data(slot);
    drop_fetch(slot);
  }
  bool holds(unsigned slot, uint64_t page) const { return read_tag[slot] == page || write_tag[slot] == page; }

  // Slots filled since the last clear, so that a clear after few fills is cheap. More than fit: all are
  // looked at.
  struct Filled {
    std::array<uint16_t, kMostFilled> slots;
    unsigned count = 0;
    bool overflowed() const { return count > kMostFilled; }
    void add(unsigned slot) {
      if (count < kMostFilled) slots[count] = static_cast<uint16_t>(slot);
      if (count <= kMostFilled) ++count;
    }
  };
  Filled global_, non_global_;
  // Frames of 4 MiB and 1 GiB (hashed) in which parts of large pages were entered since the last clear().
  std::array<bool, kFilter> mib_filter_{};
  std::array<bool, kFilter> gib_filter_{};
  // Host pages, by a part of their address: where those with write access are.
  static constexpr unsigned kWriteBuckets = 16384;
  static constexpr uint16_t kNoSlot = 0, kManySlots = 0xffff;  // else the slot's number and 1
  static size_t bucket_of(const std::byte* page) {
    return reinterpret_cast<uintptr_t>(page) / kPageSize % kWriteBuckets;
  }
  bool writes_to(unsigned slot, size_t bucket) const {
    return bucket_of(host[slot]) == bucket && write_tag[slot] != never(slot);
  }
  std::array<uint16_t, kWriteBuckets> write_slots_{};
};

// Where a vCPU's TLBs lie. Translated code wants them at fixed distances from a base of its own.
class TlbStore {
 public:
  virtual ~TlbStore() = default;
  // The context's TLB, constructed and empty. Called once for each number.
  virtual Tlb* user(unsigned context) = 0;
  virtual Tlb* supervisor(unsigned context) = 0;
};

}  // namespace ostler::mmu
