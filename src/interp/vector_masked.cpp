// Vector instructions that touch only part of their memory operand: masked moves and gathers. Elements whose
// mask bit is clear are neither read nor written and, but for MASKMOVQ and MASKMOVDQU, cannot fault (SDM Vol.
// 2C VMASKMOV, VPGATHERDD; Vol. 2B MASKMOVDQU).

#include <cstring>
#include <utility>

#include "interp/operand.h"
#include "interp/vector.h"
#include "interp/vector_families.h"

namespace ostler::interp {

using mmu::Access;
using x86::Instruction;
using x86::OperandKind;
using x86::VectorInfo;

namespace {

bool element_set(const uint8_t* mask, unsigned i, unsigned size) {
  return (mask[(i + 1) * size - 1] & 0x80) != 0;
}

// ---- VMASKMOVPS/PD, VPMASKMOVD/Q: no #AC "for any mask bit combinations" (SDM Vol. 2C, VMASKMOV) ----

class NoAlignmentChecks {
 public:
  explicit NoAlignmentChecks(Cpu& cpu) : cpu_(cpu), before_(std::exchange(cpu.alignment_check, false)) {}
  ~NoAlignmentChecks() { cpu_.alignment_check = before_; }
  NoAlignmentChecks(const NoAlignmentChecks&) = delete;
  NoAlignmentChecks& operator=(const NoAlignmentChecks&) = delete;

 private:
  Cpu& cpu_;
  const bool before_;
};

void execute_masked_load(Cpu& cpu, const Op* op) {
  check_avx(cpu);
  const NoAlignmentChecks unchecked(cpu);
  const Instruction& insn = op->insn;
  const VectorInfo info = x86::vector_info(insn);
  const unsigned size = info.mask_element_size, count = info.memory_size / size;
  const uint8_t* mask = cpu.s.vec[insn.operand[1].index];
  const uint64_t offset = cpu.effective_offset(*op);
  VectorBuffer result = {};
  for (unsigned i = 0; i < count; ++i) {
    if (!element_set(mask, i, size)) continue;
    const uint64_t linear = cpu.linear(insn.segment, offset + i * size, size, Access::kRead);
    cpu.mmu.read_bytes(linear, {result.bytes + i * size, size});
  }
  std::memcpy(cpu.s.vec[insn.operand[0].index], result.bytes, 32);
}

void execute_masked_store(Cpu& cpu, const Op* op) {
  check_avx(cpu);
  const NoAlignmentChecks unchecked(cpu);
  const Instruction& insn = op->insn;
  const VectorInfo info = x86::vector_info(insn);
  const unsigned size = info.mask_element_size, count = info.memory_size / size;
  const uint8_t* mask = cpu.s.vec[insn.operand[1].index];
  const uint8_t* source = cpu.s.vec[insn.operand[2].index];
  const uint64_t offset = cpu.effective_offset(*op);
  uint64_t linear[8] = {};
  for (unsigned i = 0; i < count; ++i) {
    if (!element_set(mask, i, size)) continue;
    linear[i] = cpu.linear(insn.segment, offset + i * size, size, Access::kWrite);
    cpu.mmu.probe(linear[i], size, Access::kWrite);
  }
  for (unsigned i = 0; i < count; ++i)
    if (element_set(mask, i, size)) cpu.mmu.write_bytes(linear[i], {source + i * size, size});
}

// ---- MASKMOVQ, MASKMOVDQU: bytes to segment:[rDI] ----

void execute_byte_masked_store(Cpu& cpu, const Op* op) {
  const Instruction& insn = op->insn;
  const VectorInfo info = x86::vector_info(insn);
  check_class(cpu, info.vector_class);
  const bool mmx = insn.operand[0].kind == OperandKind::kMmx;
  if (mmx) check_fpu_error(cpu);

  const unsigned size = info.memory_size;
  x86::FxState fx = cpu.s.fx;
  if (mmx) enter_mmx(fx);
  const uint8_t* source = mmx ? fx.st[insn.operand[0].index] : cpu.s.vec[insn.operand[0].index];
  const uint8_t* mask = mmx ? fx.st[insn.operand[1].index] : cpu.s.vec[insn.operand[1].index];
  uint64_t offset = cpu.s.gpr[x86::kRdi];
  if (insn.address_size == 4) offset = static_cast<uint32_t>(offset);
  if (insn.address_size == 2) offset = static_cast<uint16_t>(offset);
  // Processors check the whole operand, whatever the mask says.
  const uint64_t linear = cpu.linear(insn.segment, offset, size, Access::kWrite);
  cpu.mmu.probe(linear, size, Access::kWrite);
  for (unsigned i = 0; i < size; ++i)
    if (element_set(mask, i, 1)) cpu.mmu.write_bytes(linear + i, {source + i, 1});
  if (mmx) cpu.s.fx = fx;
}

// ---- gathers ----

// Elements are done in order, each completing before the next: its part of the destination is written and its
// mask element cleared, so that after a fault the instruction goes on where it stopped.
void execute_gather(Cpu& cpu, const Op* op) {
  check_avx(cpu);
  const Instruction& insn = op->insn;
  const VectorInfo info = x86::vector_info(insn);
  const unsigned size = info.memory_size, index_size = info.gather_index_size;
  const unsigned bytes = insn.vex_l ? 32 : 16;
  const unsigned count = bytes / (size > index_size ? size : index_size);
  uint8_t* destination = cpu.s.vec[insn.operand[0].index];
  uint8_t* mask = cpu.s.vec[insn.operand[2].index];
  const uint8_t* indexes = cpu.s.vec[insn.vector_index];

  const uint64_t address_mask = insn.address_size == 8 ? ~uint64_t{0} : 0xffffffff;
  // `index` is kNoRegister here, so this is base + displacement.
  const uint64_t base = cpu.effective_offset(*op);
  // Mask elements follow their top bit from the start: what is left after a fault reads as all ones.
  for (unsigned i = 0; i < bytes / size; ++i)
    std::memset(mask + i * size, element_set(mask, i, size) ? 0xff : 0, size);
  std::memset(mask + bytes, 0, 32 - bytes);
  for (unsigned i = 0; i < count; ++i) {
    if (!element_set(mask, i, size)) continue;
    int64_t index;
    if (index_size == 8) {
      std::memcpy(&index, indexes + i * 8, 8);
    } else {
      int32_t narrow;
      std::memcpy(&narrow, indexes + i * 4, 4);
      index = narrow;
    }
    const uint64_t offset = (base + (static_cast<uint64_t>(index) << insn.scale)) & address_mask;
    uint8_t element[8];
    cpu.mmu.read_bytes(cpu.linear(insn.segment, offset, size, Access::kRead), {element, size});
    std::memcpy(destination + i * size, element, size);
    std::memset(destination + bytes, 0, 32 - bytes);
    std::memset(mask + i * size, 0, size);
  }
  std::memset(mask, 0, 32);
  std::memset(destination + count * size, 0, 32 - count * size);
}

template <void (*execute)(Cpu&, const Op*)>
const Op* run(Cpu& cpu, const Op* op) {
  execute(cpu, op);
  return next(cpu, op);
}

const Op* run_undefined(Cpu& cpu, const Op* op) {
  static_cast<void>(op);
  check_avx(cpu);
  x86::raise(x86::Vector::kUd);
}

}  // namespace

Handler bind_vector_masked(const Instruction& insn, const VectorInfo& info) {
  if (info.gather) {
    const uint8_t destination = insn.operand[0].index, mask = insn.operand[2].index,
                  index = insn.vector_index;
    if (destination == mask || destination == index || mask == index) return run_undefined;
    return run<execute_gather>;
  }
  if (info.mask_element_size != 0)
    return info.access == x86::MemoryAccess::kWrite ? run<execute_masked_store> : run<execute_masked_load>;
  if (info.implicit_rdi) return run<execute_byte_masked_store>;
  return nullptr;
}

}  // namespace ostler::interp
