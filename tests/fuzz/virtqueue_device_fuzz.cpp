// A driver of the device OSTLER_DEVICE, as the fuzzer chooses its steps.
#include <cstdlib>

#include "rigs/virtqueue_run.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!ostler::rigs::run_virtqueues(OSTLER_DEVICE, {data, size}).empty()) std::abort();
  return 0;
}
