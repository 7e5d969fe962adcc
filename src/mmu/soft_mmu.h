// A vCPU's software MMU: guest-linear addresses to host memory through a software TLB, page walks on a miss
// (SDM 3A §4), MMIO and code pages on the slow path. All members run on the vCPU's thread, while its
// participant is running. Layout and reasons: design of the engine §2.3, §2.8. Callers have checked that
// addresses are canonical.
//
// Three TLB contexts make any further permission test unnecessary: user (CPL 3), supervisor, and supervisor
// with EFLAGS.AC set under SMAP. Implicit supervisor accesses use the second.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "memory/address.h"
#include "memory/address_space.h"
#include "memory/guest_access.h"
#include "mmu/access.h"
#include "mmu/code_pages.h"
#include "mmu/page_walk.h"
#include "mmu/tlb.h"
#include "mmu/user_contexts.h"
#include "mmu/vcpu_group.h"
#include "mmu/watch.h"
#include "mmu/write_recorder.h"
#include "x86/exception.h"
#include "x86/state.h"

namespace ostler::mmu {

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

class SoftMmu final : private Coherent {
 public:
  struct Limits {
    unsigned phys_bits = 40;  // MAXPHYADDR
    bool gib_pages = true;    // CPUID.80000001H:EDX.Page1GB
  };
  // All of them outlive the MMU, and the vCPU's CodePages are those of its machine.
  // Without a `store` it keeps its TLBs itself.
  SoftMmu(x86::CpuState& state, memory::AddressSpace& space, CodePages& code, Limits limits,
          TlbStore* store = nullptr);
  ~SoftMmu() override;
  SoftMmu(const SoftMmu&) = delete;
  SoftMmu& operator=(const SoftMmu&) = delete;

  // ---- with the other vCPUs ----
  // For the vCPU's thread: enter_running() before guest code, leave_running() around port I/O, halts and
  // pauses.
  Participant& participant() { return participant_; }
  // At a block head, when the participant's kick was called.
  void serve_group() { participant_.service(); }

  // ---- fast path, inline ----
  // The host address of a T at `linear` if the TLB holds the page with the permission and the T does not
  // cross its end; nullptr means nothing (a miss, MMIO, a code page, not canonical): take read(), write()
  // then.
  template <class T>
  const T* hit_read(uint64_t linear) const {
    return reinterpret_cast<const T*>(data_->find(data_->read_tag, linear, sizeof(T)));
  }
  template <class T>
  T* hit_write(uint64_t linear) const {
    return reinterpret_cast<T*>(data_->find(data_->write_tag, linear, sizeof(T)));
  }

  // Whether `size` bytes there are in the TLB.
  bool hits(uint64_t linear, size_t size, Access access) const {
    return data_->find(access == Access::kWrite ? data_->write_tag : data_->read_tag, linear, size) !=
           nullptr;
  }

  // ---- code ----
  // Grows whenever a linear address may fetch from elsewhere, or no longer at all, than it did before (CR3
  // writes, INVLPG, flushes, CR0/CR4/EFER paging bits; not CPL). What was fetched under an equal epoch and
  // CPL is still mapped. Inline.
  // With `global`, the same for code on global pages, which CR3 writes do not change.
  uint64_t fetch_epoch(bool global = false) const { return fetch_epochs_[global]; }
  // Whether the code that translate_fetch(linear) has just found lies on a global page.
  bool fetched_global(uint64_t linear) const { return fetch_->is_global_code(Tlb::slot_of(linear)); }
  // Where code at `linear` lies. Raises #PF (fetch).
  GuestPhys translate_fetch(uint64_t linear) {
    const unsigned slot = Tlb::slot_of(linear);
    if (fetch_->fetch_tag[slot] == Tlb::page_of(linear)) [[likely]]
      return {(fetch_->fetch_phys[slot] & ~kPageMask) | (linear & kPageMask)};
    return fetch_miss(linear);
  }
  // Copies code bytes within one page of physical memory, having first marked them as code, so that no later
  // write is missed. False when they are not in RAM or ROM (a device, or nothing): what is made of such bytes
  // must not be kept.
  // `shared`: for code that all vCPUs use, whose keeper is CodePages' shared observer.
  bool read_code(GuestPhys address, std::span<uint8_t> out, bool shared = false);
  // The fetch entry of a linear address after translate_fetch(): where the number for translated code is
  // kept.
  uint32_t& exec_id(uint64_t linear) { return fetch_->exec_id[Tlb::slot_of(linear)]; }
  uint64_t& exec_shared(uint64_t linear) { return fetch_->exec_shared[Tlb::slot_of(linear)]; }
  void forget_exec_ids();
  // The number of the page at `linear` as long as it is known; 0: not.
  uint32_t known_exec_id(uint64_t linear) const {
    const unsigned slot = Tlb::slot_of(linear);
    return fetch_->fetch_tag[slot] == Tlb::page_of(linear) ? fetch_->exec_id[slot] : 0;
  }
  uint32_t known_exec_shared(uint64_t linear) const {
    const unsigned slot = Tlb::slot_of(linear);
    return fetch_->fetch_tag[slot] == Tlb::page_of(linear) && fetch_->exec_shared[slot] != 0
               ? static_cast<uint32_t>(Tlb::page_of(linear) - fetch_->exec_shared[slot])
               : 0;
  }
  // The user context's TLB, the one that changes with CR3.
  Tlb* user_tlb() const { return tlbs_[kUser]; }
  CodePages& code_pages() { return code_; }
  // Throws x86::Exception like a data access; the host address of `size` bytes that may be accessed in place,
  // or null.
  void* pointer(uint64_t linear, unsigned size, Access access) {
    return access == Access::kWrite ? rmw_pointer(linear, size)
                                    : const_cast<void*>(read_pointer(linear, size));
  }
  void set_code_observer(CodeObserver* observer) { observer_ = observer; }
  // The same without throwing, for accesses within a page: what is raised is in `fault`.
  void* pointer(uint64_t linear, unsigned size, Access access, std::optional<x86::Exception>& fault);
  // translate_fetch() likewise.
  std::optional<GuestPhys> translate_fetch(uint64_t linear, std::optional<x86::Exception>& fault) {
    const unsigned slot = Tlb::slot_of(linear);
    if (fetch_->fetch_tag[slot] == Tlb::page_of(linear)) [[likely]]
      return GuestPhys{(fetch_->fetch_phys[slot] & ~kPageMask) | (linear & kPageMask)};
    const auto page = try_translate(linear, Access::kFetch, Privilege::kCurrent, fault);
    if (!page) return std::nullopt;
    return page->phys;
  }
  // All blocks were dropped: no page has code of this vCPU any more.
  void forget_code() { code_.forget(participant_); }

  // ---- data ----
  // Reads and writes of 1, 2, 4, 8, 16, 32 bytes at any alignment, page-crossing included: nothing is written
  // before every page of the access has been checked. Raise #PF with CR2 and the exact error code.
  template <class T>
  T read(uint64_t linear, Privilege privilege = Privilege::kCurrent) {
    const Tlb& tlb = privilege == Privilege::kCurrent ? *data_ : *tlbs_[kSupervisor];
    if (const void* host = tlb.find(tlb.read_tag, linear, sizeof(T))) [[likely]]
      return memory::guest_load<T>(host);
    T value;
    const void* host = read_miss(linear, &value, sizeof value, privilege);
    return host != nullptr ? memory::guest_load<T>(host) : value;
  }
  template <class T>
  void write(uint64_t linear, T value, Privilege privilege = Privilege::kCurrent) {
    const Tlb& tlb = privilege == Privilege::kCurrent ? *data_ : *tlbs_[kSupervisor];
    void* host = tlb.find(tlb.write_tag, linear, sizeof(T));
    if (host == nullptr) [[unlikely]]
      host = write_miss(linear, &value, sizeof value, privilege);
    if (host != nullptr) memory::guest_store<T>(host, value);
  }

  // The host address of `size` bytes for reading and writing in place, valid until the next call into the
  // MMU. nullptr when the bytes cross a page or are not plain RAM (then use the exclusive path). Raises #PF.
  // The caller's write must be followed by nothing: pages with code or dirty tracking are never handed out
  // here.
  void* rmw_pointer(uint64_t linear, unsigned size);
  // Like rmw_pointer, for reads only. For blocks up to a page.
  const void* read_pointer(uint64_t linear, unsigned size);
  // Read-modify-write of any kind of memory with every other vCPU stopped out of translated and interpreted
  // code, for locked accesses that rmw_pointer cannot serve. `update(value)` returns the new value; the old
  // one is returned. At most 16 bytes.
  template <class T, class Update>
  T exclusive_rmw(uint64_t linear, Update&& update) {
    T old;
    code_.group().run_exclusive(participant_, [&] {
      probe(linear, sizeof(T), Access::kWrite);
      read_bytes(linear, {reinterpret_cast<uint8_t*>(&old), sizeof old});
      const T next = update(old);
      write_bytes(linear, {reinterpret_cast<const uint8_t*>(&next), sizeof next});
    });
    return old;
  }

  // Bytes of any length up to two pages, each page checked before anything is written: FXSAVE, XSAVE, task
  // switches.
  void read_bytes(uint64_t linear, std::span<uint8_t> out, Privilege privilege = Privilege::kCurrent);
  void write_bytes(uint64_t linear, std::span<const uint8_t> in, Privilege privilege = Privilege::kCurrent);
  // Raises what an access would raise, and nothing else but accessed/dirty bits.
  void probe(uint64_t linear, unsigned size, Access access, Privilege privilege = Privilege::kCurrent);

  // ---- control ----
  // CR0, CR3, CR4, EFER, CPL, AC changed: what the architecture says must be flushed is flushed.
  void mode_changed();
  void cr3_written(uint64_t value);  // after CpuState::cr3 was set; honours PCID and bit 63
  void invlpg(uint64_t linear);
  void invpcid(uint64_t type, uint64_t pcid, uint64_t linear);
  void flush_all();  // global entries too
  // PAE: loads CpuState::pdpte from CR3; raises #GP(0) on reserved bits.
  void load_pdptes(uint64_t cr3);

  // While there is one, all writes are noted, and accesses to anything but memory are refused.
  void set_recorder(WriteRecorder* recorder);
  // ---- for a debugger; the vCPU is paused, or on its thread ----
  // `on_hit` is called for each data access that a watch sees, before the access is complete: what raises an
  // exception later has not happened. The last one stays in watch_hit().
  void set_watches(std::vector<Watch> watches, std::function<void()> on_hit);
  bool watching() const { return !watches_.empty(); }
  const WatchHit& watch_hit() const { return watch_hit_; }
  void forget_watch_hit() { watch_hit_.present = false; }

  struct Statistics {
    uint64_t misses = 0, walks = 0, faults = 0, mmio = 0, code_writes = 0;
  };
  const Statistics& statistics() const { return statistics_; }

 private:
  static constexpr unsigned kCodeFilter = 1 << 15;
  enum Context : unsigned { kUser, kSupervisor, kSupervisorAc, kContexts };

  // Where one page of an access lies, checked.
  struct Page {
    GuestPhys phys;                   // of the first byte
    memory::RamBlock* ram = nullptr;  // null: not RAM; then `phys` goes through the address space
    uint64_t offset = 0;              // in ram, of the first byte
    bool direct = false;              // a write may go straight to memory
    std::byte* host() const { return ram->host() + offset; }
  };
  class PageTables;

  void drop_translations() override;
  void drop_write_access(const std::byte* host_page) override;
  void code_stale(GuestPhys page, unsigned first, unsigned last) override;

  unsigned context_of(Privilege privilege, Access access) const;
  Page translate(uint64_t linear, Access access, Privilege privilege);
  // Nothing: what it raises is in `fault`.
  std::optional<Page> try_translate(uint64_t linear, Access access, Privilege privilege,
                                    std::optional<x86::Exception>& fault);
  Page locate(GuestPhys phys, uint64_t linear, Access access, unsigned context, const Walk& walk);
  bool probe_other_contexts(unsigned context, uint64_t linear, Access access);
  GuestPhys fetch_miss(uint64_t linear);
  bool may_hold_code(uint64_t linear);
  uint64_t current_pcid() const;
  void select_contexts();
  void drop_non_global(uint64_t pcid, bool keep_user);
  void drop_code_filter();
  template <class F>
  void for_each_tlb(F&& f);
  const void* read_miss(uint64_t linear, void* out, unsigned size, Privilege privilege);
  void* write_miss(uint64_t linear, const void* in, unsigned size, Privilege privilege);
  // Checks all pages of an access; returns the physical address of each page's first byte.
  void translate_pages(uint64_t linear, uint64_t size, Access access, Privilege privilege,
                       std::span<GuestPhys> out);
  uint64_t next_page(uint64_t linear, Privilege privilege) const;
  // Within one page.
  void read_phys(GuestPhys at, std::span<uint8_t> out);
  void write_phys(GuestPhys at, std::span<const uint8_t> in);
  void note_watched(uint64_t linear, uint64_t size, Access access);
  void store_noted(memory::RamBlock& ram, uint64_t offset, std::span<const uint8_t> in);

  Tlb* data_;  // of the current privilege
  Tlb* fetch_;
  std::array<uint64_t, 2> fetch_epochs_{1, 1};  // [1]: of global pages
  std::array<Tlb*, 3> tlbs_;                    // by Context

  x86::CpuState& state_;
  memory::AddressSpace::Reader reader_;
  CodePages& code_;
  std::unique_ptr<TlbStore> own_store_;
  UserContexts users_;
  std::array<Tlb*, 2> supervisors_;
  Limits limits_;
  PagingContext paging_;
  uint64_t cr0_ = 0, cr4_ = 0, efer_ = 0;  // the bits that paging_ was made of
  bool user_ = false;
  bool ac_ = false;      // SMAP does not apply to explicit accesses
  bool code64_ = false;  // linear addresses do not wrap around at 4 GiB
  CodeObserver* observer_ = nullptr;
  WriteRecorder* recorder_ = nullptr;
  // Pages (hashed) from which code was fetched since all fetch tags were clear: most INVLPGs are about data,
  // and must not make the epoch grow.
  std::unique_ptr<std::array<bool, kCodeFilter>> code_filter_;
  unsigned code_filter_used_ = 0;
  // Code that is protected for the shared observer, as of CodePages::shared_epoch().
  struct SharedCode {
    GuestPhys page{~uint64_t{0}};
    const std::byte* host = nullptr;
    uint64_t epoch = 0;
    uint64_t granules = 0;
  };
  std::array<SharedCode, 256> shared_code_;
  std::vector<CodePages::Stale> own_stale_;
  Watches watches_;
  std::function<void()> on_watch_hit_;
  WatchHit watch_hit_;
  Statistics statistics_;
  Participant participant_;
};

}  // namespace ostler::mmu
