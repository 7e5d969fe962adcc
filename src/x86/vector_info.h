// What an engine must know about an x87, MMX, SSE or AVX instruction to run it on the host: its memory
// access, alignment rule, general registers and the checks before it. Derived from the opcode table row
// (opcodes/*.inc).
#pragma once

#include <cstdint>

#include "x86/opcode_feature.h"

namespace ostler::x86 {

// Which state the instruction works on, hence its #UD and #NM checks (SDM Vol. 3A §2.5, §13):
// kX87, kMmx: CR0.EM, CR0.TS. kSse: CR0.EM, CR4.OSFXSR, CR0.TS. kAvx: not real or virtual-8086 mode,
// CR4.OSXSAVE, XCR0[2:1], CR0.TS. An SSE instruction that touches MMX registers (CVTPI2PS…) is kSse with
// `mmx` set.
enum class VectorClass : uint8_t { kNone, kX87, kMmx, kSse, kAvx };

enum class MemoryAccess : uint8_t {
  kNone,
  kRead,
  kWrite
};  // no instruction here reads and writes one operand

struct VectorInfo {
  VectorClass vector_class = VectorClass::kNone;
  Feature feature = kNoFeature;  // see opcode_feature()

  // The kMem operand, or [rdi] for implicit_rdi. Gathers access `memory_size` bytes per element.
  MemoryAccess access = MemoryAccess::kNone;
  uint8_t memory_size = 0;  // bytes, 1..108
  uint8_t alignment = 1;    // #GP(0) unless the linear address is a multiple

  bool mmx = false;  // touches MMX registers: x87 tags become valid, TOP 0, and pending #MF is raised
  bool simd_exceptions = false;  // may raise #XM or set MXCSR flags
  bool waits = false;            // x87/MMX: raises a pending unmasked x87 exception (#MF) first
  bool x87_control = false;      // x87: leaves the FPU instruction and data pointers alone
  bool reads_flags = false;      // FCMOVcc
  bool writes_flags = false;     // COMISS, FCOMI, PTEST, VTESTPS, PCMPxSTRx

  // Bit i: operand[i] is a general register that is read, or written (32-bit writes clear the upper half).
  uint8_t gpr_read = 0;
  uint8_t gpr_write = 0;
  bool reads_eax_edx = false;  // PCMPESTRx: lengths in EAX and EDX (RAX and RDX with vex_w)
  bool writes_ecx = false;     // PCMPxSTRI
  bool writes_xmm0 = false;    // PCMPxSTRM
  bool implicit_rdi =
      false;  // MASKMOVQ, MASKMOVDQU: store to segment:[rDI] by address_size, bytes chosen by operand[1]
  bool implicit_xmm0 = false;  // reads XMM0

  // Gather: base + vector register `insn.vector_index` (4 or 8-byte indexes) << scale + disp; mask in
  // operand[2], cleared element by element. `index` is kNoRegister.
  bool gather = false;
  uint8_t gather_index_size = 0;  // bytes of one index, 4 or 8

  // VMASKMOVPS/PD, VPMASKMOVD/Q: operand[1]'s elements of this size choose what is accessed; others never
  // fault.
  uint8_t mask_element_size = 0;
};

// vector_class is kNone for every other instruction.
VectorInfo vector_info(const Instruction& insn);

}  // namespace ostler::x86
