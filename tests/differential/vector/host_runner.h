// Runs one raw user-mode instruction on the host CPU from a given register state and captures everything:
// general registers, flags, x87, MXCSR, YMM, or the fault it raised with its vector and address. One thread
// only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace ostler::test {

// The user-visible state of the vector and x87 units, as the standard XSAVE format lays it out.
struct alignas(64) XsaveImage {
  uint8_t legacy[512] = {};
  uint64_t header[8] = {};
  uint8_t high[16][16] = {};  // upper halves of YMM
};
static_assert(sizeof(XsaveImage) == 832);

struct HostState {
  uint64_t gpr[16] = {};  // RAX, RCX, RDX, RBX, RSP, …
  uint64_t flags = 0x202;
  XsaveImage vector;
};

struct HostFault {
  uint8_t vector;
  uint64_t error;
  uint64_t address;  // CR2 for #PF
};

class HostRunner {
 public:
  HostRunner();
  // Executes `code` once. On a fault `state` is what the instruction left.
  std::optional<HostFault> run(std::span<const uint8_t> code, HostState& state);

 private:
  uint8_t* page_;
};

}  // namespace ostler::test
