#include "rigs/rigs.h"

namespace ostler::rigs {

std::vector<Kind> all_kinds() {
  std::vector<Kind> kinds;
  for (const auto& list : {chipset_kinds(), ide_kinds(), virtio_kinds()})
    kinds.insert(kinds.end(), list.begin(), list.end());
  return kinds;
}

std::unique_ptr<Rig> make(std::string_view name) {
  for (const Kind& kind : all_kinds())
    if (kind.name == name) return kind.make();
  return nullptr;
}

void Rig::step(uint32_t what, uint32_t where, uint64_t value) {
  // 1 in 16 each; the rest is split between reads and writes.
  constexpr uint32_t kTime = 0, kStimulus = 1;
  constexpr uint64_t kLongestNs = 3'000'000;
  switch (what & 15) {
    case kTime:
      bench.advance(static_cast<int64_t>(value % kLongestNs));
      return;
    case kStimulus:
      stimulate(static_cast<uint32_t>(value));
      return;
    default:
      break;
  }
  const std::vector<Range> list = ranges();
  if (list.empty()) return;
  const Range& range = list[(what >> 8) % list.size()];
  unsigned size = 1u << (what >> 16 & 3);
  while (size > range.size) size /= 2;
  uint64_t offset = where % (range.size - size + 1);
  if ((what >> 20 & 3) != 0) offset &= ~uint64_t{size - 1};  // mostly aligned
  if ((what >> 4 & 1) != 0)
    range.handler->io_write(offset, size, size == 8 ? value : value & ((uint64_t{1} << (size * 8)) - 1));
  else
    range.handler->io_read(offset, size);
}

}  // namespace ostler::rigs
