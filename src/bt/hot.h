// What translated code reaches through the GS base: one vCPU's window. See docs/bt/design.md, "Windows".
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "mmu/tlb.h"
#include "mmu/user_contexts.h"
#include "x86/state.h"

namespace ostler::bt {

class Runner;

// Why translated code came back to C++. Beside each: what `exit_value` is.
enum class Reason : uint32_t {
  kLookup,     // key of an indirect target that the hash table does not have
  kLink,       // number of a direct exit that leads nowhere yet
  kPoll,       // RIP to go on at: something is pending
  kInterpret,  // RIP of an instruction for the interpreter
  kFault,      // the slow path of a memory access has an exception for the instruction at RIP
  kHostFault,  // host address of an instruction that made the host's processor fault
};

struct HashEntry {
  uint64_t key;  // RIP, with the mode mixed in
  uint64_t host;
};

struct alignas(4096) Hot {
  x86::CpuState cpu;  // at offset 0
  std::atomic<uint32_t> pending{0};
  Reason reason = Reason::kLookup;
  uint64_t exit_value = 0;
  uint32_t branch = 0;           // the last indirect branch, for one that leads nowhere
  uint64_t shadow_rsp = 0;       // while not in translated code
  uint64_t other_rsp[2] = {};    // while in translated code: the stack of the privilege that is not running
  uint32_t mode_changed = 0;     // CpuState's mode was changed by translated code: C++ has to follow
  uint32_t waiting = 0;          // an interrupt or NMI waits for IF: STI and its like are for the interpreter
  uint64_t page_base = 0;        // the linear page that shared code runs in
  uint64_t shadow_base[2] = {};  // of the shadow stacks
  // 32-bit code: FS and GS are not such that all of 4 GiB may be read and written. Accesses with them are for
  // the interpreter then.
  uint32_t limited[2] = {};
  uint64_t engine_rsp = 0;  // while in translated code
  uint64_t scratch[4] = {};
  // The stack window: a page that may be written, and the distance from guest to host addresses there.
  // Both are set together: with no_window()'s tag alone, RSP could still be chosen to pass the check, and the
  // delta of an earlier window leads to wherever the guest had mapped that one.
  uint64_t window_tag = kNoWindow;
  uint64_t window_delta = 0;
  // Copy of an operand that crosses a page, at the same offset in 64 bytes: misaligned stays misaligned.
  alignas(64) std::byte crossing[128] = {};
  // Host addresses of what shared checks of the running block have let through. Used behind the check only.
  uint64_t shared[8] = {};
  uint64_t slot_mask = uint64_t{mmu::Tlb::kEntries - 1} << 12;  // for PEXT
  uint64_t page_mask = ~uint64_t{4095};
  int64_t budget = 0;  // instructions left, with Options::count
  uint32_t default_mxcsr = 0x1f80;
  Runner* runner = nullptr;

  // What passes the check is not canonical then, and faults on the host.
  static constexpr uint64_t kNoWindow = uint64_t{1} << 63;
  void no_window() {
    window_tag = kNoWindow;
    window_delta = 0;
  }
};

}  // namespace ostler::bt
