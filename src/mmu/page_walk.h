// The page walk of SDM Vol. 3A §4.3 to §4.8 as a pure function: linear address and control bits in, physical
// address or page-fault error code out. Page-table memory is reached through the caller's `Memory`, so that
// the walk can be tested and fuzzed without a machine:
//
//     struct Memory {
//       uint64_t read(GuestPhys at, unsigned size);   // 4 or 8 bytes, naturally aligned; all ones where
//       nothing is
//       // Atomically replaces `expected`; false when something else stands there.
//       bool replace(GuestPhys at, unsigned size, uint64_t expected, uint64_t desired);
//     };
#pragma once

#include <cstdint>

#include "memory/address.h"
#include "mmu/access.h"
#include "x86/exception.h"
#include "x86/state.h"

namespace ostler::mmu {

enum class PagingMode : uint8_t { kNone, k32Bit, kPae, k4Level, k5Level };

// What the walk depends on beside the address; follows from CR0, CR3, CR4, EFER and the CPU model.
struct PagingContext {
  PagingMode mode = PagingMode::kNone;
  bool wp = false, pse = false, pge = false, smep = false, smap = false, nxe = false;
  bool gib_pages = true;    // CPUID.80000001H:EDX.Page1GB
  unsigned phys_bits = 40;  // MAXPHYADDR
  uint64_t cr3 = 0;
  uint64_t pdpte[4] = {};  // PAE

  static PagingContext of(const x86::CpuState& state, unsigned phys_bits, bool gib_pages);
};

struct WalkAccess {
  Access kind = Access::kRead;
  bool user = false;         // a user-mode access (CPL 3 and not implicit)
  bool smap_lifted = false;  // explicit and EFLAGS.AC set
};

struct Walk {
  bool ok = false;
  uint32_t error = 0;  // of the #PF, when not ok
  GuestPhys phys;      // of the byte addressed
  uint64_t page_size = kPageSize;
  bool user_page = false;  // U/S set on all levels
  bool global = false;     // survives a CR3 write
  bool dirty = false;      // a write is allowed too, and would leave the entries as they are
};

namespace pte {
inline constexpr uint64_t kPresent = 1u << 0, kWrite = 1u << 1, kUser = 1u << 2, kAccessed = 1u << 5,
                          kDirty = 1u << 6, kLarge = 1u << 7, kGlobal = 1u << 8,
                          kNoExecute = uint64_t{1} << 63;
}

inline PagingContext PagingContext::of(const x86::CpuState& s, unsigned phys_bits, bool gib_pages) {
  namespace cr4 = x86::cr4;
  PagingContext c;
  if ((s.cr0 & x86::cr0::kPg) == 0)
    c.mode = PagingMode::kNone;
  else if ((s.cr4 & cr4::kPae) == 0)
    c.mode = PagingMode::k32Bit;
  else if (!s.long_mode())
    c.mode = PagingMode::kPae;
  else
    c.mode = (s.cr4 & cr4::kLa57) != 0 ? PagingMode::k5Level : PagingMode::k4Level;
  c.wp = (s.cr0 & x86::cr0::kWp) != 0;
  c.pse = (s.cr4 & cr4::kPse) != 0;
  c.pge = (s.cr4 & cr4::kPge) != 0;
  c.smep = (s.cr4 & cr4::kSmep) != 0;
  c.smap = (s.cr4 & cr4::kSmap) != 0;
  c.nxe = (s.msr.efer & x86::efer::kNxe) != 0;
  c.gib_pages = gib_pages;
  c.phys_bits = phys_bits;
  c.cr3 = s.cr3;
  for (unsigned i = 0; i < 4; ++i) c.pdpte[i] = s.pdpte[i];
  return c;
}

namespace detail {

// One level of the hierarchy: where its index lies in the linear address.
struct Level {
  unsigned shift;
  unsigned index_bits;
};

}  // namespace detail

template <class Memory>
class PageWalker {
 public:
  PageWalker(const PagingContext& context, Memory& memory) : c_(context), memory_(memory) {}

  // Sets accessed and dirty bits as the processor does: A in each table entry that the walk passes, A and D
  // in the last one when the access is allowed. Begins anew when an entry changes under it.
  Walk walk(uint64_t linear, WalkAccess access) {
    if (c_.mode == PagingMode::kNone)
      return {.ok = true,
              .error = 0,
              .phys = {linear & 0xffff'ffff},
              .page_size = kPageSize,
              .user_page = true,
              .global = false,
              .dirty = true};
    for (;;) {
      Walk result;
      if (attempt(linear, access, result)) return result;
    }
  }

 private:
  using Level = detail::Level;

  // False: an entry changed meanwhile.
  bool attempt(uint64_t linear, WalkAccess access, Walk& out) {
    const bool legacy = c_.mode == PagingMode::k32Bit;
    const unsigned entry_size = legacy ? 4 : 8;
    const uint64_t address_mask = legacy ? 0xffff'f000 : low_bits(c_.phys_bits) & ~kPageMask;
    uint64_t table = c_.cr3 & address_mask;
    uint64_t allowed = pte::kWrite | pte::kUser;  // the AND of these over all levels
    bool no_execute = false;
    unsigned level = 0;
    switch (c_.mode) {
      case PagingMode::k5Level:
        level = 5;
        break;
      case PagingMode::k4Level:
        level = 4;
        break;
      case PagingMode::kPae: {
        // The PDPTE registers were checked when they were loaded (§4.4.1).
        const uint64_t pdpte = c_.pdpte[(linear >> 30) & 3];
        if ((pdpte & pte::kPresent) == 0) return fault(access, 0, out);
        table = pdpte & address_mask;
        level = 2;
        break;
      }
      default:
        level = 2;
        break;
    }
    for (;; --level) {
      const Level& shape = legacy ? kLegacy[level - 1] : kLong[level - 1];
      const GuestPhys at{table + ((linear >> shape.shift) & low_bits(shape.index_bits)) * entry_size};
      const uint64_t entry = memory_.read(at, entry_size);
      if ((entry & pte::kPresent) == 0) return fault(access, 0, out);
      const bool large = (entry & pte::kLarge) != 0 && level > 1 && may_be_large(level);
      if ((entry & reserved_bits(level, large)) != 0)
        return fault(access, x86::pf_error::kPresent | x86::pf_error::kReserved, out);
      allowed &= entry;
      no_execute |= !legacy && c_.nxe && (entry & pte::kNoExecute) != 0;
      if (level > 1 && !large) {
        if ((entry & pte::kAccessed) == 0 && !memory_.replace(at, entry_size, entry, entry | pte::kAccessed))
          return false;
        table = entry & address_mask;
        continue;
      }
      const bool user_page = (allowed & pte::kUser) != 0;
      if (!permitted(access, allowed, no_execute)) return fault(access, x86::pf_error::kPresent, out);
      const uint64_t wanted = entry | pte::kAccessed | (access.kind == Access::kWrite ? pte::kDirty : 0);
      if (wanted != entry && !memory_.replace(at, entry_size, entry, wanted)) return false;
      const uint64_t in_page = low_bits(shape.shift);
      uint64_t base = entry & address_mask & ~in_page;
      if (legacy && large) base |= ((entry >> 13) & 0xff) << 32;  // PSE-36; what MAXPHYADDR lacks is reserved
      out = {.ok = true,
             .error = 0,
             .phys = {base | (linear & in_page)},
             .page_size = uint64_t{1} << shape.shift,
             .user_page = user_page,
             .global = c_.pge && (entry & pte::kGlobal) != 0,
             .dirty = (wanted & pte::kDirty) != 0 && may_write(access, allowed)};
      return true;
    }
  }

  static constexpr uint64_t low_bits(unsigned count) { return (uint64_t{1} << count) - 1; }

  bool may_be_large(unsigned level) const {
    if (c_.mode == PagingMode::k32Bit) return c_.pse;
    return level == 2 || (level == 3 && c_.gib_pages);
  }

  // Tables 4-4 to 4-6 and 4-14 to 4-20.
  uint64_t reserved_bits(unsigned level, bool large) const {
    if (c_.mode == PagingMode::k32Bit) {
      if (!large) return 0;
      // Bits 20:13 give physical bits 39:32, as far as MAXPHYADDR goes; bit 21 and the rest are reserved
      // (§4.3).
      const unsigned m = c_.phys_bits < 40 ? c_.phys_bits : 40;
      const unsigned lowest = m < 32 ? 13 : m - 32 + 13;
      return low_bits(22) & ~low_bits(lowest);
    }
    const unsigned top =
        c_.mode == PagingMode::kPae ? 63 : 52;  // bits 62:52 are reserved under PAE, else ignored
    uint64_t mask = low_bits(top) & ~low_bits(c_.phys_bits);
    if (!c_.nxe) mask |= pte::kNoExecute;
    if (large)
      mask |= low_bits(kLong[level - 1].shift) & ~low_bits(13);  // bit 12 is PAT
    else if (level > 2)
      mask |= pte::kLarge;  // PML5E, PML4E; PDPTE without 1-GByte pages
    return mask;
  }

  // §4.6.1.
  bool permitted(WalkAccess access, uint64_t allowed, bool no_execute) const {
    const bool user_page = (allowed & pte::kUser) != 0;
    if (access.user && !user_page) return false;
    if (access.kind == Access::kFetch) return !no_execute && (access.user || !user_page || !c_.smep);
    if (!access.user && user_page && c_.smap && !access.smap_lifted) return false;
    return access.kind == Access::kRead || may_write(access, allowed);
  }

  bool may_write(WalkAccess access, uint64_t allowed) const {
    return (allowed & pte::kWrite) != 0 || (!access.user && !c_.wp);
  }

  bool fault(WalkAccess access, uint32_t error, Walk& out) const {
    namespace pf = x86::pf_error;
    if (access.kind == Access::kWrite) error |= pf::kWrite;
    if (access.user) error |= pf::kUser;
    // §4.7: bit 4 is only used when no-execute or SMEP is.
    const bool tells_fetches = c_.smep || (c_.nxe && c_.mode != PagingMode::k32Bit);
    if (access.kind == Access::kFetch && tells_fetches) error |= pf::kFetch;
    out = {.ok = false,
           .error = error,
           .phys = {},
           .page_size = kPageSize,
           .user_page = false,
           .global = false,
           .dirty = false};
    return true;
  }

  static constexpr Level kLegacy[] = {{12, 10}, {22, 10}};
  static constexpr Level kLong[] = {{12, 9}, {21, 9}, {30, 9}, {39, 9}, {48, 9}};

  const PagingContext& c_;
  Memory& memory_;
};

}  // namespace ostler::mmu
