#include "memory/dma.h"

#include <algorithm>
#include <cstring>

namespace ostler::memory {

bool Dma::check(GuestPhys address, uint64_t length, Direction direction) {
  const FlatView& view =
      reader_.view();  // stays the reader's until its next call: what is used is what was checked
  if (length == 0) return true;
  if (address.value + (length - 1) < address.value) return false;
  while (true) {
    const FlatRange* range = view.find(address);
    if (range == nullptr || !range->is_ram() || (direction == Direction::kToGuest && range->read_only))
      return false;
    const uint64_t here = range->last - address;  // bytes of the range after the first
    if (length - 1 <= here) return true;
    length -= here + 1;
    address = range->last + 1;
  }
}

Dma::Place Dma::place(GuestPhys address, uint64_t length, Direction direction) {
  const FlatRange* range = reader_.find(address);
  if (range == nullptr || !range->is_ram() || (direction == Direction::kToGuest && range->read_only) ||
      range->last - address < length - 1)
    return {};
  return {range->ram.get(), range->offset_of(address)};
}

template <class Part>
void Dma::for_each_part(GuestPhys address, uint64_t length, Part&& part) {
  const FlatView& view = *reader_.current();
  for (uint64_t done = 0; done < length;) {
    const FlatRange& range = *view.find(address + done);
    const uint64_t step = std::min(length - done, range.last - (address + done) + 1);
    part(*range.ram, range.offset_of(address + done), step, done);
    done += step;
  }
}

bool Dma::read(GuestPhys from, std::span<std::byte> to) {
  if (!check(from, to.size(), Direction::kFromGuest)) return false;
  for_each_part(from, to.size(), [&](RamBlock& ram, uint64_t offset, uint64_t length, uint64_t done) {
    guest_copy(to.data() + done, ram.host() + offset, length);
  });
  return true;
}

bool Dma::write(GuestPhys to, std::span<const std::byte> from) {
  if (!check(to, from.size(), Direction::kToGuest)) return false;
  for_each_part(to, from.size(), [&](RamBlock& ram, uint64_t offset, uint64_t length, uint64_t done) {
    guest_copy(ram.host() + offset, from.data() + done, length);
    space().ram_written(ram, offset, length);
  });
  return true;
}

bool Dma::fill(GuestPhys to, uint64_t length, std::byte value) {
  if (!check(to, length, Direction::kToGuest)) return false;
  for_each_part(to, length, [&](RamBlock& ram, uint64_t offset, uint64_t bytes, uint64_t) {
    guest_fill(ram.host() + offset, static_cast<uint8_t>(value), bytes);
    space().ram_written(ram, offset, bytes);
  });
  return true;
}

bool Dma::map(GuestPhys address, uint64_t length, Direction direction, Mapping& mapping, size_t most_spans) {
  if (!check(address, length, direction)) return false;
  const size_t before = mapping.spans.size();
  bool fits = true;
  for_each_part(address, length, [&](RamBlock& ram, uint64_t offset, uint64_t bytes, uint64_t) {
    if (mapping.spans.size() > before) {
      const Mapping::Place& place = mapping.places.back();
      iovec& span = mapping.spans.back();
      if (place.ram == &ram && place.offset + span.iov_len == offset) {
        span.iov_len += bytes;
        return;
      }
    }
    fits = fits && mapping.spans.size() < most_spans;
    if (!fits) return;
    mapping.spans.push_back({ram.host() + offset, bytes});
    mapping.places.push_back({&ram, offset});
  });
  if (!fits) {
    mapping.spans.resize(before);
    mapping.places.resize(before);
    return false;
  }
  mapping.bytes += length;
  if (length != 0 && (mapping.views.empty() || mapping.views.back() != reader_.current()))
    mapping.views.push_back(reader_.current());
  return true;
}

void Dma::written(const Mapping& mapping, uint64_t length) {
  for (size_t i = 0; i < mapping.spans.size() && length != 0; ++i) {
    const uint64_t here = std::min<uint64_t>(length, mapping.spans[i].iov_len);
    space().ram_written(*mapping.places[i].ram, mapping.places[i].offset, here);
    length -= here;
  }
}

}  // namespace ostler::memory
