// What a translation depends on beside its addresses and bytes.
#pragma once

#include <cstdint>

namespace ostler::bt {

// Bits of a translation mode. All clear is what user code nearly always runs in.
namespace mode {
inline constexpr uint8_t kSupervisor = 1u << 0;  // CPL 0 to 2
inline constexpr uint8_t kAc = 1u << 1;          // SMAP is on and lifted
inline constexpr uint8_t kNoX87 = 1u << 2;       // x87 and MMX raise #NM or #UD
inline constexpr uint8_t kNoSse = 1u << 3;
inline constexpr uint8_t kNoAvx = 1u << 4;
inline constexpr uint8_t kCpl0 = 1u << 5;
// Of a block, not of the processor: stack accesses are checked one by one.
inline constexpr uint8_t kNoWindow = 1u << 6;
// 32-bit code, legacy or compatibility mode, whose segments are flat: see Runner::takes().
inline constexpr uint8_t k32 = 1u << 7;
}  // namespace mode

using Mode = uint8_t;

// Mixed into RIP for the keys of the hash tables and for return addresses on the shadow stack, of which there
// is a pair for user and one for supervisor code.
constexpr uint64_t mode_key(Mode m) {
  return static_cast<uint64_t>(
             m & (mode::kAc | mode::kNoX87 | mode::kNoSse | mode::kNoAvx | mode::kCpl0 | mode::k32))
             << 56 ^
         (m & mode::kSupervisor ? uint64_t{mode::kCpl0} << 56 : 0);
}

}  // namespace ostler::bt
