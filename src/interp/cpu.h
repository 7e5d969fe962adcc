// One vCPU of the reference interpreter: its state, its view of memory, and what instruction handlers need.
// Everything here runs on the vCPU's thread unless said otherwise. Faults are thrown as x86::Exception and
// caught in the run loop; a handler checks everything before it commits anything, so a throw leaves the state
// as before the instruction.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "interp/debug.h"
#include "interp/environment.h"
#include "interp/op.h"
#include "mmu/soft_mmu.h"
#include "x86/exception.h"
#include "x86/instruction.h"
#include "x86/state.h"

namespace ostler::x86 {
class CpuModel;
}

namespace ostler::interp {

struct Block;
class BlockCache;

// What a vCPU has to look at before its next block. Posted by any thread, taken by the run loop.
namespace pending {
inline constexpr uint32_t kStop = 1u << 0;       // Interpreter::request_exit()
inline constexpr uint32_t kInterrupt = 1u << 1;  // an external interrupt may be deliverable
inline constexpr uint32_t kNmi = 1u << 2;
inline constexpr uint32_t kInit = 1u << 3;
inline constexpr uint32_t kSipi = 1u << 4;
inline constexpr uint32_t kSmi = 1u << 5;
inline constexpr uint32_t kGroup = 1u << 6;  // the vCPU group wants this vCPU out of guest code
inline constexpr uint32_t kSlow = 1u << 7;   // the vCPU itself: single-step, shadow or budget to be looked at
}  // namespace pending

class Cpu {
 public:
  // `pending`: where to keep the pending bits; null: here.
  Cpu(x86::CpuState& state, mmu::SoftMmu& soft_mmu, Environment& environment, const x86::CpuModel& cpu_model,
      std::atomic<uint32_t>* pending = nullptr)
      : s(state),
        mmu(soft_mmu),
        env(environment),
        model(cpu_model),
        pending_(pending != nullptr ? *pending : own_pending_) {}
  Cpu(const Cpu&) = delete;
  Cpu& operator=(const Cpu&) = delete;

  x86::CpuState& s;
  mmu::SoftMmu& mmu;
  Environment& env;
  const x86::CpuModel& model;

  // ---- registers, by byte offset in gpr[] (AH = 1) ----
  template <class T>
  T reg(uint8_t offset) const {
    T value;
    std::memcpy(&value, reinterpret_cast<const uint8_t*>(s.gpr.data()) + offset, sizeof value);
    return value;
  }
  // 32-bit writes clear the upper half; 8- and 16-bit writes keep the rest.
  template <class T>
  void set_reg(uint8_t offset, T value) {
    if constexpr (sizeof(T) == 4) {
      const uint64_t wide = static_cast<uint32_t>(value);
      std::memcpy(reinterpret_cast<uint8_t*>(s.gpr.data()) + offset, &wide, sizeof wide);
    } else {
      std::memcpy(reinterpret_cast<uint8_t*>(s.gpr.data()) + offset, &value, sizeof value);
    }
  }

  // RIP of the instruction after `op`, truncated to the code size where 16- and 32-bit code wants it.
  uint64_t next_rip(const Op& op) const {
    const uint64_t rip = block_rip + op.next_offset;
    return code_size == x86::CodeSize::k64   ? rip
           : code_size == x86::CodeSize::k32 ? static_cast<uint32_t>(rip)
                                             : rip & 0xffff;
  }
  uint64_t current_rip(const Op& op) const { return block_rip + op.next_offset - op.insn.length; }

  // Offset within the segment of the memory operand, truncated to the address size.
  uint64_t effective_offset(const Op& op) const;
  // Linear address of an access of `size` bytes at seg:offset: adds the base; checks limits, type and
  // canonicality; raises #GP(0), or #SS(0) for SS. In 64-bit mode only FS and GS have a base and only
  // canonicality is checked. Also raises #AC(0) when alignment checks are on and `size` is 2, 4 or 8 (16: not
  // checked here).
  uint64_t linear(x86::SegIndex segment, uint64_t offset, unsigned size, mmu::Access access) const;
  uint64_t linear(const Op& op, unsigned size, mmu::Access access) const {
    return linear(op.insn.segment, effective_offset(op), size, access);
  }
  // Whether linear() of the whole range would raise nothing; false also when breakpoints or alignment checks
  // want every access to be looked at one by one.
  bool range_allowed(x86::SegIndex segment, uint64_t offset, unsigned size, mmu::Access access) const;
  // Adds to debug_traps the I/O breakpoints that `size` bytes at `port` hit (CR4.DE).
  void check_io_breakpoints(uint16_t port, unsigned size) const;
  bool canonical(uint64_t address) const {
    const unsigned unused = (s.cr4 & x86::cr4::kLa57) != 0 ? 7 : 16;
    return static_cast<uint64_t>(static_cast<int64_t>(address << unused) >> unused) == address;
  }

  // ---- stack (stack address size by SS.B or 64-bit mode); commit RSP only after success ----
  unsigned stack_size() const;  // 2, 4, 8
  uint64_t stack_mask() const;
  void set_sp(uint64_t value);  // writes RSP, ESP or SP by stack_size()

  // ---- control ----
  // Sets RIP for a near transfer, checking the CS limit or canonicality of `target` (#GP(0)).
  void jump_near(uint64_t target);
  // As jump_near, without setting RIP: what must hold before a CALL writes its return address.
  void check_near(uint64_t target) const;
  // CPL, CR0, CR4, EFER, CS, SS, DR7, TF, RF or AC changed: recomputes the cached mode and the MMU's. The
  // handler that calls it must end its block (return nullptr with s.rip set).
  void mode_changed();
  // The MMU's translations for instruction fetch changed (CR3, INVLPG…) is the MMU's own business: it bumps
  // its fetch epoch, which the block cache compares.

  // Marks `bits` of pending:: for the run loop. Any thread; does not wake a halted vCPU's thread.
  void post(uint32_t bits) { pending_.fetch_or(bits, std::memory_order_acq_rel); }

  x86::CodeSize code_size = x86::CodeSize::k16;
  uint8_t cpl = 0;
  bool alignment_check = false;   // CR0.AM, EFLAGS.AC and CPL 3
  bool single_step = false;       // one instruction, or one iteration of a string instruction, at a time
  bool data_breakpoints = false;  // DR7 enables a data or I/O breakpoint
  bool instruction_breakpoints = false;
  // RIP of the running block's first instruction; s.rip is only current between blocks and at Ops that set
  // it.
  uint64_t block_rip = 0;
  // The instruction being executed: what faulted when an exception is caught.
  const Op* current_op = nullptr;
  // #DB causes (DR6 bits) collected during the current instruction, raised as a trap after it.
  mutable uint64_t debug_traps = 0;
  bool at_breakpoint = false;  // the block that ran last ended at a breakpoint of `debug`

  // ---- for the run loop and control transfers ----
  std::atomic<uint32_t> own_pending_{0};
  std::atomic<uint32_t>& pending_;
  uint32_t context = 0;  // number of the present BlockContext: what blocks are keyed by beside addresses
  Block* block = nullptr;
  Block** link = nullptr;  // where the next block found is to be remembered
  BlockCache* cache = nullptr;
  int64_t budget = 0;  // instructions left before run() returns
  DebugRequest debug;  // of a debugger outside the guest

 private:
  void check_data_breakpoints(uint64_t address, unsigned size, mmu::Access access) const;
};

}  // namespace ostler::interp
