#include "memory/flat_view.h"

#include <algorithm>

namespace ostler::memory {

const FlatRange* FlatView::at_or_after(GuestPhys address) const {
  const auto at =
      std::lower_bound(ranges_.begin(), ranges_.end(), address,
                       [](const FlatRange& range, GuestPhys wanted) { return range.last < wanted; });
  return at == ranges_.end() ? nullptr : &*at;
}

const FlatRange* FlatView::find(GuestPhys address) const {
  const FlatRange* range = at_or_after(address);
  return range != nullptr && range->first <= address ? range : nullptr;
}

}  // namespace ostler::memory
