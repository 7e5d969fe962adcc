// Host code for guest vector, MMX and x87 instructions: one small function per instruction form that loads
// the guest's registers, runs the re-encoded instruction and stores the results. Register numbers are
// renamed, so a form (opcode, prefixes, immediate, memory or register operand) has one stub whatever
// registers it names; the number of forms bounds the memory. Stubs live in one arena for all vCPUs, mapped
// twice: writable in one place, executable in another, never both. Creation takes a mutex; running takes
// nothing.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>

#include "x86/vector_info.h"

namespace ostler::interp {

// What a stub works on beside the registers it is given pointers to.
struct StubFrame {
  uint32_t mxcsr = 0x1f80;       // in and out, for forms that use it
  uint32_t host_mxcsr = 0x1f80;  // restored afterwards
  uint64_t rax = 0;              // the general register operand, in and out; PCMPESTRx: first length
  uint64_t rdx = 0;              // PCMPESTRx: second length
  uint64_t rcx = 0;              // PCMPxSTRI: result
  uint16_t flags_ax = 0;         // as CpuState::flags_ax
  uint32_t scratch;              // the stub's own
};

// How a stub ended. Anything but kNone: no result was stored.
enum class StubFault : uint32_t {
  kNone = 0,
  kSimd,       // unmasked SIMD exception; frame.mxcsr has the new flags
  kUndefined,  // the host does not know the instruction
  kMemory,     // the host refused the access (alignment)
};

// Arguments are the instruction's fields: ModRM.reg, VEX.vvvv (or the implicit XMM0), ModRM.rm or memory,
// imm8[7:4].
using StubCode = StubFault (*)(void* reg, void* vvvv, void* rm, void* is4, StubFrame* frame);

// What a field of the encoding names.
enum class Slot : uint8_t { kNone, kVector, kMmx, kGpr, kMemory };

// The facts of one form that its handlers need at run time, kept just before its code.
struct StubHeader {
  StubCode code = nullptr;
  x86::VectorInfo info;
  Slot reg = Slot::kNone, vvvv = Slot::kNone, rm = Slot::kNone, is4 = Slot::kNone;
  // Which Instruction::operand each field is; vvvv may be the implicit XMM0 (kImplicitXmm0).
  uint8_t reg_operand = 0, vvvv_operand = 0, rm_operand = 0, is4_operand = 0;
  uint8_t gpr_size = 0;  // of the general register operand, if there is one
};
inline constexpr uint8_t kImplicitXmm0 = 0xff;

class StubArena {
 public:
  // The process's arena, made on first use. Aborts with a message if the host cannot give executable memory.
  static StubArena& instance();

  // The stub of an encoding key, created from `header` and `code` if there is none yet. Any thread.
  // Returns what at() takes.
  uint32_t find(uint64_t key) const;  // 0: none
  uint32_t add(uint64_t key, const StubHeader& header, std::span<const uint8_t> code);

  // Bytes taken, of kSize.
  size_t used() const {
    std::lock_guard lock(mutex_);
    return used_;
  }
  static constexpr size_t kSize = 32u << 20;

  const StubHeader& at(uint32_t offset) const {
    return *reinterpret_cast<const StubHeader*>(executable_ + offset);
  }

  StubArena(const StubArena&) = delete;
  StubArena& operator=(const StubArena&) = delete;

 private:
  StubArena();

  uint8_t* writable_ = nullptr;
  const uint8_t* executable_ = nullptr;
  size_t used_ = 0;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, uint32_t> stubs_;  // guarded by mutex_
};

}  // namespace ostler::interp
