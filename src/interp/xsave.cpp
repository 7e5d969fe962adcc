// FXSAVE, FXRSTOR and the XSAVE family (SDM Vol. 1 §10.5, §13.4-13.12; operation sections in Vol. 2).
// Components: x87, SSE, AVX. AVX is at offset 576 in both formats, being the only component after the legacy
// region. The modified optimization is never used, the init optimization always.

#include "interp/xsave.h"

#include <algorithm>
#include <cstring>

#include "interp/operand.h"
#include "interp/vector.h"
#include "interp/vector_families.h"
#include "interp/x87_environment.h"

namespace ostler::interp {

using mmu::Access;
using x86::CpuState;
using x86::FxState;
using x86::Opcode;
using x86::Vector;

namespace {

constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4;
constexpr uint64_t kCompacted = uint64_t{1} << 63;
constexpr unsigned kXmmOffset = 160, kMxcsrOffset = 24, kHeaderOffset = 512, kAvxOffset = 576, kAvxSize = 256;
constexpr uint32_t kMxcsrMask = 0xffff, kMxcsrInitial = 0x1f80;

bool all_zero(const uint8_t* bytes, size_t size) {
  return std::all_of(bytes, bytes + size, [](uint8_t byte) { return byte == 0; });
}

unsigned vector_registers(const Cpu& cpu) {
  return cpu.code_size == x86::CodeSize::k64 ? 16 : 8;
}

// FIP, FDP: 64 bits with REX.W, else 32 bits and a selector, which reads 0.
struct LegacyFormat {
  bool wide_pointers;
};

void store_x87(const FxState& fx, LegacyFormat format, uint8_t* area) {
  std::memcpy(area, &fx, kMxcsrOffset);
  area[5] = 0;
  if (!format.wide_pointers) {
    std::memset(area + 12, 0, 4);
    std::memset(area + 20, 0, 4);
  }
  std::memcpy(area + 32, fx.st, sizeof fx.st);
}

void load_x87(FxState& fx, LegacyFormat format, const uint8_t* area) {
  const uint32_t mxcsr = fx.mxcsr, mask = fx.mxcsr_mask;
  std::memcpy(&fx, area, sizeof fx);
  fx.mxcsr = mxcsr;
  fx.mxcsr_mask = mask;
  fx.reserved = 0;
  fx.fcw = x87_control_word(fx.fcw);
  fx.fop &= 0x7ff;
  if (!format.wide_pointers) {
    fx.fip = static_cast<uint32_t>(fx.fip);
    fx.fdp = static_cast<uint32_t>(fx.fdp);
  }
  for (auto& st : fx.st) std::memset(st + 10, 0, 6);
  update_fpu_summary(fx);
}

void initialize_x87(FxState& fx) {
  x87_initialize(fx);
  std::memset(fx.st, 0, sizeof fx.st);
}

void store_mxcsr(const FxState& fx, uint8_t* area) {
  std::memcpy(area + kMxcsrOffset, &fx.mxcsr, 4);
  std::memcpy(area + kMxcsrOffset + 4, &kMxcsrMask, 4);
}

uint32_t mxcsr_in(const uint8_t* area) {
  uint32_t value;
  std::memcpy(&value, area + kMxcsrOffset, 4);
  return value;
}

void check_mxcsr(uint32_t value) {
  if ((value & ~kMxcsrMask) != 0) x86::raise(Vector::kGp, 0);
}

// Halves of the vector registers: `offset` 0 for XMM, 16 for the upper halves.
void store_halves(const Cpu& cpu, unsigned offset, uint8_t* area) {
  for (unsigned i = 0; i < vector_registers(cpu); ++i) std::memcpy(area + 16 * i, cpu.s.vec[i] + offset, 16);
}
void load_halves(Cpu& cpu, unsigned offset, const uint8_t* area) {
  for (unsigned i = 0; i < vector_registers(cpu); ++i) std::memcpy(cpu.s.vec[i] + offset, area + 16 * i, 16);
}
void clear_halves(Cpu& cpu, unsigned offset) {
  for (unsigned i = 0; i < vector_registers(cpu); ++i) std::memset(cpu.s.vec[i] + offset, 0, 16);
}

uint64_t area_address(Cpu& cpu, const Op* op, unsigned alignment, unsigned size, Access access) {
  return vector_linear(cpu, op, size, alignment, access);
}

// ---- FXSAVE, FXRSTOR ----

void execute_fxsave(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, x86::VectorClass::kX87);  // EM: #NM, not #UD
  uint8_t area[416];
  const uint64_t linear = area_address(cpu, op, 16, 512, Access::kWrite);
  store_x87(cpu.s.fx, {op->insn.vex_w}, area);
  store_mxcsr(cpu.s.fx, area);
  store_halves(cpu, 0, area + kXmmOffset);
  // Nothing after the XMM registers of this mode is written.
  cpu.mmu.probe(linear, 512, Access::kWrite);
  cpu.mmu.write_bytes(linear, {area, kXmmOffset + 16 * vector_registers(cpu)});
}

void execute_fxrstor(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, x86::VectorClass::kX87);
  uint8_t area[512];
  cpu.mmu.read_bytes(area_address(cpu, op, 16, 512, Access::kRead), area);
  check_mxcsr(mxcsr_in(area));
  load_x87(cpu.s.fx, {op->insn.vex_w}, area);
  cpu.s.fx.mxcsr = mxcsr_in(area);
  load_halves(cpu, 0, area + kXmmOffset);
}

// ---- XSAVE, XSAVEOPT, XSAVEC, XSAVES ----

void check_xsave(const Cpu& cpu) {
  if ((cpu.s.cr4 & x86::cr4::kOsxsave) == 0) x86::raise(Vector::kUd);
  if ((cpu.s.cr0 & x86::cr0::kTs) != 0) x86::raise(Vector::kNm);
}

uint64_t requested(const Cpu& cpu, uint64_t enabled) {
  const uint64_t edx_eax = static_cast<uint32_t>(cpu.s.gpr[x86::kRax]) | cpu.s.gpr[x86::kRdx] << 32;
  return edx_eax & enabled;
}

// IA32_XSS has no supported bit, so XCR0 alone enables components for the supervisor forms as well.
void execute_xsave(Cpu& cpu, const Op* op) {
  check_xsave(cpu);
  const Opcode opcode = op->insn.opcode;
  if (opcode == Opcode::kXsaves && cpu.cpl != 0) x86::raise(Vector::kGp, 0);
  const bool compacted = opcode == Opcode::kXsavec || opcode == Opcode::kXsaves;
  const LegacyFormat format{op->insn.vex_w};

  const uint64_t rfbm = requested(cpu, cpu.s.xcr0);
  const uint64_t in_use = xinuse(cpu.s);
  uint64_t save = rfbm;
  if (opcode != Opcode::kXsave) save &= in_use;
  if (compacted && cpu.s.fx.mxcsr != kMxcsrInitial) save |= rfbm & kSse;

  const bool with_avx = (rfbm & kAvx) != 0;
  const unsigned size = with_avx ? kAvxOffset + kAvxSize : kAvxOffset;
  const uint64_t linear = area_address(cpu, op, 64, size, Access::kWrite);
  cpu.mmu.probe(linear, size, Access::kWrite);

  uint8_t legacy[416];
  const bool mxcsr = compacted ? (save & kSse) != 0 : (rfbm & (kSse | kAvx)) != 0;
  if ((save & kX87) != 0) {
    store_x87(cpu.s.fx, format, legacy);
    cpu.mmu.write_bytes(linear, {legacy, kMxcsrOffset});
    cpu.mmu.write_bytes(linear + 32, {legacy + 32, sizeof cpu.s.fx.st});
  }
  if (mxcsr) {
    store_mxcsr(cpu.s.fx, legacy);
    cpu.mmu.write_bytes(linear + kMxcsrOffset, {legacy + kMxcsrOffset, 8});
  }
  if ((save & kSse) != 0) {
    store_halves(cpu, 0, legacy + kXmmOffset);
    cpu.mmu.write_bytes(linear + kXmmOffset, {legacy + kXmmOffset, size_t{16} * vector_registers(cpu)});
  }
  if ((save & kAvx) != 0) {
    uint8_t area[kAvxSize];
    store_halves(cpu, 16, area);
    cpu.mmu.write_bytes(linear + kAvxOffset, {area, size_t{16} * vector_registers(cpu)});
  }

  if (compacted) {
    const uint64_t header[2] = {save, rfbm | kCompacted};
    cpu.mmu.write_bytes(linear + kHeaderOffset, {reinterpret_cast<const uint8_t*>(header), sizeof header});
  } else {
    const uint64_t old = cpu.mmu.read<uint64_t>(linear + kHeaderOffset);
    cpu.mmu.write<uint64_t>(linear + kHeaderOffset, (old & ~rfbm) | (in_use & rfbm));
  }
}

// ---- XRSTOR, XRSTORS ----

void check_header(uint64_t enabled, bool compacted_only, const uint64_t (&header)[8]) {
  const uint64_t xstate_bv = header[0], xcomp_bv = header[1];
  const auto* bytes = reinterpret_cast<const uint8_t*>(header);
  bool good;
  if ((xcomp_bv & kCompacted) != 0)
    good = (xcomp_bv & ~kCompacted & ~enabled) == 0 && (xstate_bv & ~xcomp_bv) == 0 &&
           (xstate_bv & kCompacted) == 0 && all_zero(bytes + 16, 48);
  else
    good = !compacted_only && (xstate_bv & ~enabled) == 0 && all_zero(bytes + 8, 16);
  if (!good) x86::raise(Vector::kGp, 0);
}

void execute_xrstor(Cpu& cpu, const Op* op) {
  check_xsave(cpu);
  const bool supervisor = op->insn.opcode == Opcode::kXrstors;
  if (supervisor && cpu.cpl != 0) x86::raise(Vector::kGp, 0);
  const uint64_t rfbm = requested(cpu, cpu.s.xcr0);

  uint8_t area[kAvxOffset + kAvxSize];
  const uint64_t linear = area_address(cpu, op, 64, kAvxOffset, Access::kRead);
  cpu.mmu.read_bytes(linear, {area, kAvxOffset});
  uint64_t header[8];
  std::memcpy(header, area + kHeaderOffset, sizeof header);
  check_header(cpu.s.xcr0, supervisor, header);
  const bool compacted = (header[1] & kCompacted) != 0;
  const uint64_t restore = rfbm & header[0];
  // The AVX area of a compacted image exists only if XCOMP_BV says so; XSTATE_BV is a subset of it.
  if ((restore & kAvx) != 0) cpu.mmu.read_bytes(linear + kAvxOffset, {area + kAvxOffset, kAvxSize});

  const bool load_mxcsr = compacted ? (restore & kSse) != 0 : (rfbm & (kSse | kAvx)) != 0;
  if (load_mxcsr) check_mxcsr(mxcsr_in(area));

  if ((restore & kX87) != 0)
    load_x87(cpu.s.fx, {op->insn.vex_w}, area);
  else if ((rfbm & kX87) != 0)
    initialize_x87(cpu.s.fx);
  if (load_mxcsr)
    cpu.s.fx.mxcsr = mxcsr_in(area);
  else if (compacted && (rfbm & kSse) != 0)
    cpu.s.fx.mxcsr = kMxcsrInitial;
  if ((restore & kSse) != 0)
    load_halves(cpu, 0, area + kXmmOffset);
  else if ((rfbm & kSse) != 0)
    clear_halves(cpu, 0);
  if ((restore & kAvx) != 0)
    load_halves(cpu, 16, area + kAvxOffset);
  else if ((rfbm & kAvx) != 0)
    clear_halves(cpu, 16);
}

template <void (*execute)(Cpu&, const Op*)>
const Op* run(Cpu& cpu, const Op* op) {
  execute(cpu, op);
  return next(cpu, op);
}

}  // namespace

uint64_t xinuse(const CpuState& s) {
  uint64_t result = 0;
  const FxState& fx = s.fx;
  if (fx.fcw != 0x37f || fx.fsw != 0 || fx.ftw != 0 || fx.fop != 0 || fx.fip != 0 || fx.fdp != 0 ||
      !all_zero(&fx.st[0][0], sizeof fx.st))
    result |= kX87;
  for (const auto& vec : s.vec) {
    if (!all_zero(vec, 16)) result |= kSse;
    if (!all_zero(vec + 16, 16)) result |= kAvx;
  }
  return result;
}

Handler bind_extended_state(const x86::Instruction& insn) {
  switch (insn.opcode) {
    case Opcode::kFxsave:
      return run<execute_fxsave>;
    case Opcode::kFxrstor:
      return run<execute_fxrstor>;
    case Opcode::kXsave:
    case Opcode::kXsaveopt:
    case Opcode::kXsavec:
    case Opcode::kXsaves:
      return run<execute_xsave>;
    case Opcode::kXrstor:
    case Opcode::kXrstors:
      return run<execute_xrstor>;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
