// Which bytes of guest memory have been decoded or translated, by which vCPU; and what a write to them sets
// off. One for each machine. Memory is told apart by where it lies in a RAM block, so that every
// guest-physical alias of a page counts as the same code.
//
// Protocol (page flags of memory::RamBlock):
//   1. Before a vCPU reads code bytes it registers their 64-byte granules and sets kCode. From then on no
//   vCPU may
//      write to the page unnoticed: if some may hold write access in its TLB (kWriteTagged), all are made to
//      drop it, which is waited for; then the page is kCodeSettled. Only now the bytes are read.
//   2. A writer that meets kCode stores its bytes first and reports them. Registered granules that overlap
//   are
//      unregistered and their owners told: the writer's own vCPU at once, the others before their next block.
//   3. The first few times, a hit drops the page as a whole, and it is plain memory again (a page that is
//   reused for
//      other things). A page that is hit again and again (data beside code) is then kept, and writes beside
//      the code only cost the slow path.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "mmu/vcpu_group.h"

namespace ostler::mmu {

// Whoever keeps translated code of guest memory for all vCPUs of a machine.
class SharedCodeObserver {
 public:
  virtual ~SharedCodeObserver() = default;
  // Code made of bytes [first, last] of the physical page at `page` is stale, and must not be entered any
  // more when this returns. Any thread, with CodePages' mutex held.
  virtual void shared_code_written(GuestPhys page, unsigned first, unsigned last) = 0;
};

class CodePages final : public memory::CodeListener, public memory::Listener {
 public:
  static constexpr unsigned kGranule = 64;       // bytes
  static constexpr unsigned kWholePageHits = 6;  // of the page, before granules are told apart

  // Listens to `space` for writes by DMA and for memory that goes away. All outlive it.
  CodePages(memory::AddressSpace& space, VcpuGroup& group);
  ~CodePages() override;

  VcpuGroup& group() { return group_; }

  // A bit for each granule of its page that [offset, offset + length) touches.
  static uint64_t granules_of(uint64_t offset, uint64_t length) {
    const auto first = static_cast<unsigned>((offset & kPageMask) / kGranule);
    const auto last = static_cast<unsigned>(((offset & kPageMask) + length - 1) / kGranule);
    return (~uint64_t{0} << first) & (~uint64_t{0} >> (63 - last));
  }

  // Before vCPU `who` reads [offset, offset + length), within one page, as code at guest-physical `page`. May
  // wait for other vCPUs; call it between blocks.
  // `shared`: what is made of them is kept for all vCPUs, by the shared observer.
  // False: `ram` does not lie at `page` any more, and nobody would tell of its end. Nothing is registered,
  // and what is made of the bytes must not be kept.
  [[nodiscard]] bool protect(Participant& who, memory::RamBlock& ram, uint64_t offset, uint64_t length,
                             GuestPhys page, bool shared = false);

  // Changes before shared bytes lose their protection and before anybody is told: what was protected for the
  // shared observer at the same epoch needs no other call, as long as the observer's users take a translation
  // as stale when it was told of its page meanwhile. Any thread.
  uint64_t shared_epoch() const { return shared_epoch_.load(std::memory_order_acquire); }

  // Before vCPUs run.
  void set_shared_observer(SharedCodeObserver* observer) { shared_observer_ = observer; }
  // Nothing is kept for all vCPUs any more.
  void forget_shared();

  struct Stale {
    GuestPhys page;
    uint16_t first, last;
  };
  // After `who` wrote [offset, offset + length), within one page that has kCode. Appends to `own` what the
  // writer's own vCPU must drop now.
  void written(const Participant& who, memory::RamBlock& ram, uint64_t offset, uint64_t length,
               std::vector<Stale>& own);
  // `who` keeps no code any more; or none of this page.
  void forget(const Participant& who);
  void forget(const Participant& who, memory::RamBlock& ram, uint64_t offset);

  // Somebody else wrote. Any thread.
  void code_written(memory::RamBlock& ram, uint64_t offset, uint64_t length) override;
  // RAM that goes away takes its code and all translations with it, before the commit returns.
  void view_changed(const memory::ViewChange& change) override;

 private:
  struct Page {
    memory::RamBlock* ram;
    std::vector<GuestPhys> aliases;  // usually one
    std::vector<uint64_t> granules;  // by owner: 0 is shared, participant n is n + 1
    uint64_t generation;             // since when kCode has been set without a break
  };
  using Pages = std::unordered_map<const std::byte*, Page>;  // by host page

  void written_locked(const Participant* who, memory::RamBlock& ram, uint64_t offset, uint64_t length,
                      std::vector<Stale>* own);
  bool is_there(const memory::RamBlock& ram, uint64_t offset, GuestPhys page) const;
  static unsigned owner_of(const Participant& who) { return who.index() + 1; }
  void forget_locked(unsigned owner);
  void tell_locked(const Page& page, unsigned owner, uint64_t mask, const Participant* who,
                   std::vector<Stale>* own);
  bool release_if_unused_locked(Pages::iterator at);

  memory::AddressSpace& space_;
  VcpuGroup& group_;
  SharedCodeObserver* shared_observer_ = nullptr;
  std::mutex mutex_;  // before the group's
  Pages pages_;
  uint64_t generations_ = 0;
  std::atomic<uint64_t> shared_epoch_{1};
};

}  // namespace ostler::mmu
