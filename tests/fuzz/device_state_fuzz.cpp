// A saved state from a hostile stream: the first byte chooses the device, then come 64 bytes of register
// accesses that the loaded device must survive, and the stream.
#include "base/bytes.h"
#include "rigs/rigs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kStep = 16, kSteps = 4;
  if (size < 1 + kStep * kSteps) return 0;
  static const auto kinds = ostler::rigs::all_kinds();
  const auto rig = kinds[data[0] % kinds.size()].make();
  const uint8_t* steps = data + 1;
  const uint8_t* stream = steps + kStep * kSteps;
  if (!rig->load(std::as_bytes(std::span(stream, data + size)))) return 0;
  for (size_t i = 0; i < kSteps; ++i, steps += kStep)
    rig->step(ostler::load_le<uint32_t>(steps), ostler::load_le<uint32_t>(steps + 4),
              ostler::load_le<uint64_t>(steps + 8));
  return 0;
}
