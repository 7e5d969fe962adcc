#include "mmu/user_contexts.h"

#include <algorithm>

namespace ostler::mmu {

void UserContexts::select(uint64_t pcid, bool keep) {
  auto at = std::find_if(contexts_.begin(), contexts_.end(),
                         [&](const Context& context) { return context.valid && context.pcid == pcid; });
  if (at == contexts_.end()) {
    // One that is not in use, else the one not used for longest.
    at = std::min_element(contexts_.begin(), contexts_.end(), [](const Context& a, const Context& b) {
      return (a.valid ? a.used : 0) < (b.valid ? b.used : 0);
    });
    if (at->tlb == nullptr)
      at->tlb = store_.user(static_cast<unsigned>(at - contexts_.begin()));
    else
      at->tlb->clear();
    at->valid = true;
    at->pcid = pcid;
    at->epoch = ++epochs_;
  } else if (!keep) {
    at->tlb->clear_non_global();
    at->epoch = ++epochs_;
  }
  at->used = ++switches_;
  current_ = &*at;
}

void UserContexts::clear(uint64_t pcid) {
  forget_others();
  current_->tlb->clear();
  current_->pcid = pcid;
  current_->epoch = ++epochs_;
}

void UserContexts::forget(uint64_t pcid) {
  for (Context& context : contexts_)
    if (context.valid && context.pcid == pcid && &context != current_) context.valid = false;
}

void UserContexts::forget_others() {
  for (Context& context : contexts_)
    if (&context != current_) context.valid = false;
}

void UserContexts::renew_epochs() {
  for (Context& context : contexts_) context.epoch = ++epochs_;
}

}  // namespace ostler::mmu
