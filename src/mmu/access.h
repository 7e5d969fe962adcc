// Kinds of memory access, as paging tells them apart (SDM Vol. 3A §4.6).
#pragma once

#include <cstdint>

namespace ostler::mmu {

enum class Access : uint8_t { kRead, kWrite, kFetch };  // kWrite also for read-modify-write

// What an access is checked against: the current privilege (CPL, SMAP with EFLAGS.AC), or supervisor for the
// implicit accesses to descriptor tables and task state segments (SDM 3A §4.6, never subject to AC).
enum class Privilege : uint8_t { kCurrent, kSupervisor };

}  // namespace ostler::mmu
