// The routines that all translations share, at the start of the code memory: going in and out of translated
// code, the slow path of memory accesses, indirect branches.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "bt/code_cache.h"
#include "bt/hot.h"

namespace ostler::bt {

// Follows the call of a memory access's slow path in the cold code. Packed: code is all around it.
struct [[gnu::packed]] MissInfo {
  uint32_t block;
  int32_t resume;      // from here to behind the check
  uint16_t offset;     // of the guest instruction from the block's start
  uint16_t size : 10;  // bytes
  uint16_t write : 1;
  uint16_t others_first : 1;  // #GP of a misaligned operand, #MF go before #PF: the interpreter decides
  uint16_t shares : 1;        // a ShareMissInfo
};

// Of a check that several accesses share.
struct [[gnu::packed]] ShareMissInfo {
  MissInfo miss;
  uint32_t unshared;  // number of the exit to take when it cannot pass
};

enum class TlbKind : uint8_t { kUser, kSup, kAc };

struct Routines {
  // void enter(host code): runs it until it comes back; Hot tells why.
  Offset enter = 0;
  // To jump to, all registers the guest's: kS0 becomes exit_value.
  Offset exit_link = 0, exit_poll = 0, exit_interpret = 0, exit_lookup = 0;
  // From the signal handler, with the registers as they were; Hot::exit_value is set.
  Offset host_fault = 0;
  // To be called by cold code, a MissInfo behind the call. kS0: address minus tag, kS1: slot.
  Offset miss[3][2] = {};  // by TlbKind, write
  // The same of a shared check, kS0: address.
  Offset share_miss[3][2] = {};
  // To be called by cold code. kS0: an address. Makes the stack window its page if that may be written: then
  // the zero flag is set.
  Offset window[3] = {};  // by TlbKind
  // To jump to, flags in memory. kS0: RIP of the instruction; kS1: of the next one.
  Offset syscall = 0, sysret = 0;
  // Jumps to the code whose key is kS0. Flags in memory.
  Offset lookup[2] = {};  // user, supervisor
  // The same for modes with a mode_key(), whose entries lie in other slots: else an address that is not
  // canonical would be the key of another mode's code.
  Offset lookup_mixed[2] = {};
  // The first word of a shadow stack: a return that no call belongs to.
  Offset underflow[2] = {};
};

// Result of the slow path: the difference between host and guest address where the access goes on, or 0:
// leave.
using MissFunction = uint64_t (*)(Runner*, const MissInfo*, uint64_t address);

Result<Routines> make_routines(CodeCache& cache, MissFunction miss);

}  // namespace ostler::bt
