// Descriptor, gate and selector formats, and the rules about which may be loaded where (SDM 3A §3.4, §5,
// §6.14, §8.2). Values in, values out: who reads the tables and raises the faults is the engine.
#pragma once

#include <cstdint>

#include "x86/exception.h"
#include "x86/state.h"

namespace ostler::x86 {

struct Selector {
  uint16_t value = 0;

  unsigned rpl() const { return value & 3; }
  bool local() const { return (value & 4) != 0; }  // LDT, not GDT
  uint32_t offset() const { return value & 0xfff8; }
  bool null() const { return (value & 0xfffc) == 0; }
  uint32_t error() const { return value & 0xfffc; }  // as in an error code
};

// Types of system descriptors (S = 0), Table 3-2.
enum class SystemType : uint8_t {
  kTss16 = 1,
  kLdt = 2,
  kTss16Busy = 3,
  kCallGate16 = 4,
  kTaskGate = 5,
  kInterruptGate16 = 6,
  kTrapGate16 = 7,
  kTss32 = 9,
  kTss32Busy = 11,
  kCallGate32 = 12,
  kInterruptGate32 = 14,
  kTrapGate32 = 15,
};

// The 8 bytes of a segment or system descriptor; `high` the upper 8 of a 16-byte one (long mode).
struct Descriptor {
  uint64_t low = 0;
  uint64_t high = 0;

  uint8_t access() const { return static_cast<uint8_t>(low >> 40); }
  unsigned type() const { return access() & 15; }
  SystemType system_type() const { return static_cast<SystemType>(type()); }
  bool system() const { return (access() & 0x10) == 0; }
  unsigned dpl() const { return (access() >> 5) & 3; }
  bool present() const { return (access() & 0x80) != 0; }
  bool is_long() const { return (low >> 53 & 1) != 0; }
  bool big() const { return (low >> 54 & 1) != 0; }

  bool code() const { return (access() & 0x18) == 0x18; }
  bool data() const { return (access() & 0x18) == 0x10; }
  bool conforming() const { return code() && (type() & 4) != 0; }
  bool readable() const { return data() || (code() && (type() & 2) != 0); }
  bool writable() const { return data() && (type() & 2) != 0; }
  bool accessed() const { return (type() & 1) != 0; }

  uint64_t base() const;        // 64 bits with `high` of a 16-byte descriptor
  uint32_t limit() const;       // bytes, scaled by G
  uint32_t attributes() const;  // as in Segment::attributes
  Segment segment(Selector selector) const { return {base(), limit(), attributes(), selector.value}; }
};

// A call, interrupt, trap or task gate. `high` as in Descriptor.
struct Gate {
  Descriptor raw;

  Selector selector() const { return {static_cast<uint16_t>(raw.low >> 16)}; }
  uint64_t offset16() const { return raw.low & 0xffff; }
  uint64_t offset32() const { return (raw.low & 0xffff) | (raw.low >> 32 & 0xffff0000); }
  uint64_t offset64() const { return offset32() | raw.high << 32; }
  unsigned parameters() const { return raw.low >> 32 & 31; }
  unsigned ist() const { return raw.low >> 32 & 7; }
};

// The outcome of a rule. The error code is the selector's, unless the rule says otherwise.
enum class Check : uint8_t { kOk, kGp, kNp, kSs, kTs };

// Loading SS (MOV, POP, LSS, IRET…): `fault` is what a wrong type or privilege raises: kGp, or kTs when the
// selector came from a task state segment.
Check check_stack_segment(Selector selector, const Descriptor& descriptor, unsigned cpl,
                          Check fault = Check::kGp);
// Loading DS, ES, FS, GS.
Check check_data_segment(Selector selector, const Descriptor& descriptor, unsigned cpl);
// The code segment of a far JMP or CALL without a gate.
Check check_direct_code(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode);
// The code segment named by a call, interrupt or trap gate. `jump`: JMP through a call gate may not change
// the privilege level. `long_gate`: a gate of long mode leads to 64-bit code only.
Check check_gate_code(const Descriptor& descriptor, unsigned cpl, bool jump, bool long_gate);
// The code segment that RET or IRET goes back to.
Check check_return_code(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode);

// A data segment register that stays valid when returning to an outer level `cpl`; else it is made null.
bool survives_return(const Segment& segment, unsigned cpl);

// An access of `size` bytes at `offset`: inside the limit, expand-down segments included (SDM 3A §5.3).
bool within_limit(const Segment& segment, uint64_t offset, uint64_t size);

// Types that LAR and LSL answer for (SDM Vol. 2 "LAR" and "LSL"); privilege is checked as well.
bool lar_answers(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode);
bool lsl_answers(Selector selector, const Descriptor& descriptor, unsigned cpl, bool long_mode);

// RIP or a base in `bits`-wide linear address space.
constexpr bool canonical(uint64_t address, unsigned bits) {
  const unsigned unused = 64 - bits;
  return static_cast<uint64_t>(static_cast<int64_t>(address << unused) >> unused) == address;
}

inline constexpr uint32_t kRealCodeAttributes = 0x9b, kRealDataAttributes = 0x93, kV8086Attributes = 0xf3;

}  // namespace ostler::x86
