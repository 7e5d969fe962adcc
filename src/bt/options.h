// How a machine's translator is set up. Every optimisation can be turned off, for tests.
#pragma once

#include <cstddef>

namespace ostler::bt {

struct Options {
  size_t cache_bytes = size_t{256} << 20;
  unsigned block_instructions = 64;  // at most, in a superblock
  bool count = false;                // keeps Cpu::budget exact, for run(max_instructions)
  unsigned check = 0;                // every nth block also runs on the interpreter, see checker.h
  bool perf_map = false;             // see perf_map.h

  bool share = true;          // code that lies at several linear pages is translated once for all of them
  bool share_all = false;     // as if all user code did, for tests
  bool window = true;         // one check for a block's stack accesses
  bool shared_checks = true;  // one check for several accesses near the same address
  bool unroll = true;         // loops, so that iterations share checks
  bool keep_flags = true;     // checks that leave the host's flags alone where the guest's are in them
  bool direct = true;         // operands at a register: added to the distance to the host's page
  bool flags_wait = true;     // flags stay in memory in blocks that would only put them there again
  bool system = true;         // system instructions and string instructions without the interpreter
  bool bits32 = true;         // 32-bit code too
  bool tsc = false;           // RDTSC natively: the guest's TSC is the host's plus CpuState::msr.tsc_offset
};

}  // namespace ostler::bt
