#include "memory/flat_view.h"

#include <algorithm>
#include <bit>

#include "base/bytes.h"

namespace ostler::memory {

uint64_t read_handler(const FlatRange& range, GuestPhys address, unsigned size) {
  uint64_t value = 0;
  for (unsigned done = 0; done < size;) {
    const unsigned step = std::bit_floor(std::min<unsigned>(size - done, range.max_access));
    value |= (range.handler->io_read(range.offset_of(address + done), step) & size_mask(step)) << (done * 8);
    done += step;
  }
  return value;
}

void write_handler(const FlatRange& range, GuestPhys address, unsigned size, uint64_t value) {
  for (unsigned done = 0; done < size;) {
    const unsigned step = std::bit_floor(std::min<unsigned>(size - done, range.max_access));
    range.handler->io_write(range.offset_of(address + done), step, (value >> (done * 8)) & size_mask(step));
    done += step;
  }
}

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
