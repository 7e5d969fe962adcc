// One run of a driver over all queues of a virtio device, its steps chosen by bytes of a generator or a
// fuzzer.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace ostler::rigs {

// What the device did against the rules while the driver kept them, or "". `kind`: one of
// VirtioBackends::kinds().
std::string run_virtqueues(const std::string& kind, std::span<const uint8_t> steps);

}  // namespace ostler::rigs
