// Register accesses, time and other inputs of one device, as the fuzzer chooses them; the device is
// OSTLER_RIG. Then the state is saved and must load.
#include <cstdlib>

#include "base/bytes.h"
#include "rigs/rigs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kStep = 16, kMostSteps = 2048;
  const auto rig = ostler::rigs::make(OSTLER_RIG);
  if (rig == nullptr) std::abort();
  for (size_t i = 0; i < kMostSteps && size >= kStep; ++i, data += kStep, size -= kStep) {
    rig->step(ostler::load_le<uint32_t>(data), ostler::load_le<uint32_t>(data + 4),
              ostler::load_le<uint64_t>(data + 8));
    rig->check();
  }
  if (!rig->load(rig->save())) std::abort();
  return 0;
}
