// Random streams of instructions: straight lines, branches forward, bounded loops, calls and returns, string
// instructions, with memory operands at the edges of what is mapped. A stream is made while it runs: the host
// CPU executes what there is so far, and the next instruction's operands are aimed with the registers that it
// left.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "campaign.h"
#include "host_runner.h"

namespace ostler::differential {

struct Stream {
  TestCase test;
  std::vector<uint8_t> lengths;  // of the instructions of test.code
};

// 4 to 40 instructions. A quarter of the streams end in a fault of their own. `vectors`: x87, MMX, SSE and
// AVX instructions too.
Stream random_stream(Random& random, HostRunner& host, bool vectors, x86::CodeSize code_size);

}  // namespace ostler::differential
