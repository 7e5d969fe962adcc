// A saved state that a hostile peer has changed: the first byte chooses the device, the next 64 bring it into
// some state, the rest patches the stream (position:2, value:1); the last steps are done to what was loaded.
#include "base/bytes.h"
#include "rigs/rigs.h"

namespace {

constexpr size_t kStep = 16, kSteps = 4, kPatch = 3;

void drive(ostler::rigs::Rig& rig, const uint8_t* steps) {
  for (size_t i = 0; i < kSteps; ++i, steps += kStep)
    rig.step(ostler::load_le<uint32_t>(steps), ostler::load_le<uint32_t>(steps + 4),
             ostler::load_le<uint64_t>(steps + 8));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 + kStep * kSteps) return 0;
  static const auto kinds = ostler::rigs::all_kinds();
  const auto& kind = kinds[data[0] % kinds.size()];
  const uint8_t* steps = data + 1;
  const auto rig = kind.make();
  drive(*rig, steps);
  std::vector<std::byte> stream = rig->save();
  for (const uint8_t* patch = steps + kStep * kSteps; patch + kPatch <= data + size; patch += kPatch)
    stream[ostler::load_le<uint16_t>(patch) % stream.size()] = static_cast<std::byte>(patch[2]);
  const auto other = kind.make();
  if (other->load(stream)) drive(*other, steps);
  return 0;
}
