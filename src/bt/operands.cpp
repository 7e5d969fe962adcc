#include "bt/operands.h"

#include "x86/vector_info.h"

namespace ostler::bt {

using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;

namespace {

constexpr uint16_t kAll = 0xffff;

constexpr uint16_t bit(unsigned number) {
  return static_cast<uint16_t>(1u << number);
}

uint16_t register_of(const x86::Operand& operand) {
  return operand.kind == OperandKind::kGpr ? bit(operand.index / 8) : uint16_t{0};
}

// Writes nothing but its first operand.
bool writes_first_only(Opcode opcode) {
  switch (opcode) {
    case Opcode::kMov:
    case Opcode::kMovzx:
    case Opcode::kMovsx:
    case Opcode::kMovbe:
    case Opcode::kMovnti:
    case Opcode::kCmov:
    case Opcode::kSetcc:
    case Opcode::kAdd:
    case Opcode::kOr:
    case Opcode::kAdc:
    case Opcode::kSbb:
    case Opcode::kAnd:
    case Opcode::kSub:
    case Opcode::kXor:
    case Opcode::kInc:
    case Opcode::kDec:
    case Opcode::kNeg:
    case Opcode::kNot:
    case Opcode::kImul2:
    case Opcode::kImul3:
    case Opcode::kRol:
    case Opcode::kRor:
    case Opcode::kShl:
    case Opcode::kShr:
    case Opcode::kSar:
    case Opcode::kShld:
    case Opcode::kShrd:
    case Opcode::kBswap:
    case Opcode::kTzcnt:
    case Opcode::kLzcnt:
    case Opcode::kRorx:
    case Opcode::kShlx:
    case Opcode::kShrx:
    case Opcode::kSarx:
    case Opcode::kCrc32:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool only_reads_operands(Opcode opcode) {
  switch (opcode) {
    case Opcode::kCmp:
    case Opcode::kTest:
    case Opcode::kBt:
    case Opcode::kMul:
    case Opcode::kImul:
    case Opcode::kDiv:
    case Opcode::kIdiv:
    case Opcode::kLdmxcsr:
      return true;
    default:
      return false;
  }
}

bool writes_second(Opcode opcode) {
  return opcode == Opcode::kXchg || opcode == Opcode::kXadd || opcode == Opcode::kMulx;
}

MemoryUse memory_use(const Instruction& insn) {
  if (insn.opcode == Opcode::kCmpxchg8b) return {8, true};
  if (insn.opcode == Opcode::kCmpxchg16b) return {16, true};
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind != OperandKind::kMem) continue;
    if (insn.opcode >= Opcode::kFadd) {
      const x86::VectorInfo info = x86::vector_info(insn);
      return {info.memory_size, info.access == x86::MemoryAccess::kWrite};
    }
    return {insn.operand[i].size, i == 0 && !only_reads_operands(insn.opcode)};
  }
  return {};
}

uint16_t written_registers(const Instruction& insn, Kind kind) {
  switch (kind) {
    case Kind::kLea:
      return register_of(insn.operand[0]);
    case Kind::kPush:
      return bit(x86::kRsp);
    case Kind::kPop:
      return bit(x86::kRsp) | register_of(insn.operand[0]);
    case Kind::kLeave:
      return bit(x86::kRsp) | bit(x86::kRbp);
    case Kind::kCondition:
    case Kind::kNothing:
      return 0;
    case Kind::kGeneric:
      break;
    default:
      return kAll;
  }
  if (insn.opcode >= Opcode::kFadd) {
    const x86::VectorInfo info = x86::vector_info(insn);
    uint16_t written = info.writes_ecx ? bit(x86::kRcx) : uint16_t{0};
    for (unsigned i = 0; i < insn.operand_count; ++i)
      if ((info.gpr_write >> i & 1) != 0) written |= register_of(insn.operand[i]);
    return written;
  }
  if (insn.opcode == Opcode::kCmp || insn.opcode == Opcode::kTest) return 0;
  if (writes_first_only(insn.opcode)) return register_of(insn.operand[0]);
  uint16_t written = bit(x86::kRax) | bit(x86::kRcx) | bit(x86::kRdx) | bit(x86::kRbx);
  for (unsigned i = 0; i < insn.operand_count; ++i) written |= register_of(insn.operand[i]);
  return written;
}

bool is_at_stack(const Instruction& insn, unsigned word) {
  return insn.has_memory() && insn.base == x86::kRsp * 8 && insn.index == x86::kNoRegister &&
         insn.address_size == word && insn.segment < x86::kFs;
}

}  // namespace ostler::bt
