// A vCPU's software MMU: guest-linear addresses to host memory through a software TLB, page walks on a miss
// (SDM 3A §4), MMIO and code pages on the slow path. All members run on the vCPU's thread unless said
// otherwise. Layout and reasons: design of the engine §2.3, §2.8.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "memory/address.h"
#include "x86/exception.h"
#include "x86/state.h"

namespace ostler::mmu {

enum class Access : uint8_t { kRead, kWrite, kFetch };  // kWrite also for read-modify-write

// What an access is checked against: the current privilege (CPL, SMAP with EFLAGS.AC), or supervisor for the
// implicit accesses to descriptor tables and task state segments (SDM 3A §4.6, never subject to AC).
enum class Privilege : uint8_t { kCurrent, kSupervisor };

// Whoever keeps decoded or translated code of guest memory for one vCPU. Called on that vCPU's thread: at
// once for its own writes (the instruction that wrote is still executing), and when requests of other writers
// (vCPUs, DMA) are drained between blocks.
class CodeObserver {
 public:
  virtual ~CodeObserver() = default;
  // Code made of bytes [first, last] of the physical page at `page` is stale. Returns whether code of that
  // page is still kept; when not, the page's writes become fast again for this vCPU.
  virtual bool code_written(GuestPhys page, unsigned first, unsigned last) = 0;
};

class SoftMmu {
 public:
  // ---- fast path, inline ----
  // The host address of a T at `linear` if the TLB holds the page with the permission and the T does not
  // cross its end; nullptr means nothing (a miss, MMIO, a code page, not canonical): take read(), write()
  // then.
  template <class T>
  const T* hit_read(uint64_t linear) const;
  template <class T>
  T* hit_write(uint64_t linear) const;

  // ---- code ----
  // Grows or changes whenever a linear address may fetch from elsewhere, or no longer at all, than it did
  // before (CR3 writes, INVLPG, flushes, CR0/CR4/EFER paging bits; not CPL). What was fetched under an equal
  // epoch and CPL is still mapped. Inline.
  uint64_t fetch_epoch() const;
  // Copies code bytes within one page of physical memory, having first marked the page as one with code, so
  // that no later write is missed.
  void read_code(GuestPhys address, std::span<uint8_t> out);
  void set_code_observer(CodeObserver* observer);
  // All blocks were dropped: no page has code of this vCPU any more.
  void forget_code();

  // Reads and writes of 1, 2, 4, 8, 16, 32 bytes at any alignment, page-crossing included: nothing is written
  // before every page of the access has been checked. Raise #PF with CR2 and the exact error code.
  template <class T>
  T read(uint64_t linear, Privilege privilege = Privilege::kCurrent);
  template <class T>
  void write(uint64_t linear, T value, Privilege privilege = Privilege::kCurrent);

  // The host address of `size` bytes for reading and writing in place, valid until the next call into the
  // MMU. nullptr when the bytes cross a page or are not plain RAM (then use the exclusive path). Raises #PF.
  // The caller's write must be followed by nothing: pages with code or dirty tracking are never handed out
  // here.
  void* rmw_pointer(uint64_t linear, unsigned size);
  // Like rmw_pointer, for reads only. For blocks up to a page.
  const void* read_pointer(uint64_t linear, unsigned size);
  // Read-modify-write of any kind of memory with every other vCPU stopped out of translated and interpreted
  // code, for locked accesses that rmw_pointer cannot serve. `update(value)` returns the new value.
  template <class T, class Update>
  T exclusive_rmw(uint64_t linear, Update&& update);

  // Bytes of any length, each page checked before anything is written: FXSAVE, XSAVE, task switches.
  void read_bytes(uint64_t linear, std::span<uint8_t> out, Privilege privilege = Privilege::kCurrent);
  void write_bytes(uint64_t linear, std::span<const uint8_t> in, Privilege privilege = Privilege::kCurrent);
  // Raises what an access would raise, and nothing else but accessed/dirty bits.
  void probe(uint64_t linear, unsigned size, Access access, Privilege privilege = Privilege::kCurrent);

  // Where code at `linear` lies. Raises #PF (fetch).
  GuestPhys translate_fetch(uint64_t linear);

  // CR0, CR3, CR4, EFER, CPL, AC changed: what the architecture says must be flushed is flushed.
  void mode_changed();
  void cr3_written(uint64_t value);  // after CpuState::cr3 was set; honours PCID and bit 63
  void invlpg(uint64_t linear);
  void invpcid(uint64_t type, uint64_t pcid, uint64_t linear);
  void flush_all();  // global entries too
  // PAE: loads CpuState::pdpte from CR3; raises #GP(0) on reserved bits.
  void load_pdptes(uint64_t cr3);
};

}  // namespace ostler::mmu
