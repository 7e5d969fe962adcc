// One vCPU of the reference interpreter: its state, its view of memory, and what instruction handlers need.
// Everything here runs on the vCPU's thread. Faults are thrown as x86::Exception and caught in the run loop;
// a handler checks everything before it commits anything, so a throw leaves the state as before the instruction.
#pragma once

#include <cstdint>

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

class Cpu {
 public:
  Cpu(x86::CpuState& state, mmu::SoftMmu& mmu, Environment& environment, const x86::CpuModel& model)
      : s(state), mmu(mmu), env(environment), model(model) {}

  x86::CpuState& s;
  mmu::SoftMmu& mmu;
  Environment& env;
  const x86::CpuModel& model;

  // ---- registers, by byte offset in gpr[] (AH = 1) ----
  template <class T>
  T reg(uint8_t offset) const {
    return *reinterpret_cast<const T*>(reinterpret_cast<const uint8_t*>(s.gpr.data()) + offset);
  }
  // 32-bit writes clear the upper half; 8- and 16-bit writes keep the rest.
  template <class T>
  void set_reg(uint8_t offset, T value) {
    if constexpr (sizeof(T) == 4)
      s.gpr[offset >> 3] = value;
    else
      *reinterpret_cast<T*>(reinterpret_cast<uint8_t*>(s.gpr.data()) + offset) = value;
  }

  // RIP of the instruction after `op`, truncated to the code size where 16- and 32-bit code wants it.
  uint64_t next_rip(const Op& op) const { return block_rip + op.next_offset; }
  uint64_t current_rip(const Op& op) const { return block_rip + op.next_offset - op.insn.length; }

  // Offset within the segment of the memory operand, truncated to the address size.
  uint64_t effective_offset(const Op& op) const;
  // Linear address of an access of `size` bytes at seg:offset: adds the base; checks limits, type and canonicality;
  // raises #GP(0), or #SS(0) for SS. In 64-bit mode only FS and GS have a base and only canonicality is checked.
  uint64_t linear(x86::SegIndex segment, uint64_t offset, unsigned size, mmu::Access access) const;
  uint64_t linear(const Op& op, unsigned size, mmu::Access access) const {
    return linear(op.insn.segment, effective_offset(op), size, access);
  }

  // ---- stack (operand size T, stack address size by SS.B or 64-bit mode); commit RSP only after success ----
  unsigned stack_size() const;  // 2, 4, 8
  uint64_t stack_mask() const;
  void set_sp(uint64_t value);  // writes RSP, ESP or SP by stack_size()

  // ---- control ----
  // Sets RIP for a near transfer, checking the CS limit or canonicality of `target` (#GP(0)).
  void jump_near(uint64_t target);
  // CPL, CR0, CR4, EFER, CS.L/D, SS or AC changed: recomputes the cached mode and the MMU's. Ends the block.
  void mode_changed();

  x86::CodeSize code_size = x86::CodeSize::k16;
  uint8_t cpl = 0;
  // RIP of the running block's first instruction; s.rip is only current between blocks and at Ops that set it.
  uint64_t block_rip = 0;
};

}  // namespace ostler::interp
