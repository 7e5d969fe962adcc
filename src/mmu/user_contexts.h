// The user-mode TLBs of the process-context identifiers used last (SDM Vol. 3A §4.10.1), so that a switch of
// address spaces that keeps translations costs a pointer. Exactly one is current. Without PCIDs all use
// number 0.
#pragma once

#include <array>
#include <cstdint>

#include "mmu/tlb.h"

namespace ostler::mmu {

class UserContexts {
 public:
  static constexpr unsigned kMost = 6;  // Linux uses as many

  explicit UserContexts(TlbStore& store) : store_(store) { select(0, false); }

  Tlb& tlb() { return *current_->tlb; }
  const Tlb& tlb() const { return *current_->tlb; }
  // Changes with the context, and whenever code may have moved in it; no number comes twice for different
  // meanings.
  uint64_t epoch() const { return current_->epoch; }
  uint64_t pcid() const { return current_->pcid; }

  // MOV to CR3. Unless `keep`, what is not global is dropped.
  void select(uint64_t pcid, bool keep);
  // Forgets all contexts; the current one is now that of `pcid`.
  void clear(uint64_t pcid);
  // Forgets a context that is not current.
  void forget(uint64_t pcid);
  void forget_others();
  void renew_epochs();
  template <class F>
  void for_each(F&& f) {
    for (Context& context : contexts_)
      if (context.valid) f(*context.tlb);
  }

 private:
  struct Context {
    Tlb* tlb = nullptr;  // made when first needed
    bool valid = false;
    uint64_t pcid = 0;
    uint64_t epoch = 0;
    uint64_t used = 0;  // when, on a clock that counts switches
  };
  TlbStore& store_;
  std::array<Context, kMost> contexts_;
  Context* current_ = nullptr;
  uint64_t epochs_ = 0;
  uint64_t switches_ = 0;
};

}  // namespace ostler::mmu
