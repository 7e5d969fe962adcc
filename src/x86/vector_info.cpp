#include "x86/vector_info.h"

#include "x86/opcodes/table.h"

namespace ostler::x86 {
namespace {

using opcodes::Row;
namespace trait = opcodes::trait;

const Row& row_of(const Instruction& insn) {
  return opcodes::kTables.rows[insn.row];
}

VectorClass class_of(uint32_t traits) {
  if ((traits & trait::kX87) != 0) return VectorClass::kX87;
  if ((traits & trait::kMmx) != 0) return VectorClass::kMmx;
  if ((traits & trait::kSse) != 0) return VectorClass::kSse;
  return VectorClass::kAvx;
}

// SSE: 16-byte operands are aligned unless the row says otherwise. AVX: only where the row says so. x87 and
// MMX: never.
uint8_t alignment_of(uint32_t traits, uint8_t size) {
  if ((traits & trait::kAvx) != 0) return (traits & trait::kAligned) != 0 ? size : 1;
  if ((traits & trait::kSse) != 0) return size == 16 && (traits & trait::kUnaligned) == 0 ? 16 : 1;
  return 1;
}

void set_memory(VectorInfo& info, const Instruction& insn, uint32_t traits) {
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind != OperandKind::kMem) continue;
    const bool store = i == 0 && (insn.operand_count > 1 || (traits & trait::kStore) != 0);
    info.access = store ? MemoryAccess::kWrite : MemoryAccess::kRead;
    info.memory_size = insn.operand[i].size;
    info.alignment = alignment_of(traits, info.memory_size);
  }
  if ((traits & trait::kRdi) != 0) {
    info.implicit_rdi = true;
    info.access = MemoryAccess::kWrite;
    info.memory_size = insn.operand[0].size;
  }
}

}  // namespace

Feature opcode_feature(const Instruction& insn) {
  const opcodes::Properties& properties = row_of(insn).properties;
  if ((properties.traits & trait::kWide) == 0 || !insn.vex_l) return properties.feature;
  switch (properties.feature) {
    case Feature::kAvx:
      return Feature::kAvx2;
    case Feature::kAes:
      return Feature::kVaes;
    case Feature::kPclmulqdq:
      return Feature::kVpclmulqdq;
    default:
      return properties.feature;
  }
}

VectorInfo vector_info(const Instruction& insn) {
  VectorInfo info;
  const uint32_t traits = row_of(insn).properties.traits;
  const auto has = [traits](uint32_t bits) { return (traits & bits) != 0; };
  if (!has(trait::kVector)) return info;
  info.vector_class = class_of(traits);
  info.feature = opcode_feature(insn);
  set_memory(info, insn, traits);

  // CVTPI2PD from memory is the one that leaves the x87 state alone (SDM Vol. 2A, CVTPI2PD).
  info.mmx = has(trait::kMmx) || (has(trait::kUsesMmx) &&
                                  (insn.opcode != Opcode::kCvtpi2pd || info.access == MemoryAccess::kNone));
  info.waits = info.mmx || (has(trait::kX87) && !has(trait::kNoWait));
  info.x87_control = has(trait::kControl);
  info.simd_exceptions = has(trait::kSimdExceptions);
  info.reads_flags = has(trait::kReadsFlags);
  info.writes_flags = has(trait::kWritesFlags);
  info.reads_eax_edx = has(trait::kEaxEdx);
  info.writes_ecx = has(trait::kWritesEcx);
  info.writes_xmm0 = has(trait::kWritesXmm0);
  info.implicit_xmm0 = has(trait::kXmm0);
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind != OperandKind::kGpr) continue;
    (i == 0 ? info.gpr_write : info.gpr_read) |= static_cast<uint8_t>(1u << i);
  }
  info.gather = has(trait::kIndexD | trait::kIndexQ);
  if (info.gather) info.gather_index_size = has(trait::kIndexD) ? 4 : 8;
  if (has(trait::kMaskD | trait::kMaskQ)) info.mask_element_size = has(trait::kMaskD) ? 4 : 8;
  return info;
}

}  // namespace ostler::x86
