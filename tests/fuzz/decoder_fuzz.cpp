// The decoder on arbitrary bytes: never reads past them, and its answers hang together. The first byte is the
// mode.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/assert.h"
#include "x86/format.h"
#include "x86/vector_info.h"

namespace {

using namespace ostler::x86;

bool is_gpr(uint8_t offset) {
  return offset < kZeroGpr * 8 && (offset % 8 == 0 || (offset % 8 == 1 && offset < 4 * 8));
}

void check_operands(const Instruction& insn) {
  bool memory = false;
  for (const Operand& operand : insn.operand) {
    const bool used = &operand - insn.operand < insn.operand_count;
    ASSERT(used == (operand.kind != OperandKind::kNone), "operands fill the front");
    memory |= operand.kind == OperandKind::kMem;
    if (operand.kind == OperandKind::kGpr) ASSERT(is_gpr(operand.index), "a register's byte offset");
    if (operand.kind == OperandKind::kVector) ASSERT(operand.index < 16, "XMM0 to 15");
    if (operand.kind == OperandKind::kMmx || operand.kind == OperandKind::kSt)
      ASSERT(operand.index < 8, "8 registers");
  }
  ASSERT(memory == insn.memory_operand, "memory_operand tells");
  ASSERT(memory == insn.has_memory(), "has_memory() tells");
  ASSERT(insn.base == kNoRegister || insn.base == kRipBase || is_gpr(insn.base), "base");
  ASSERT(insn.index == kNoRegister || is_gpr(insn.index), "index");
  ASSERT(insn.segment <= kGs, "segment");
  if (insn.lock) ASSERT(insn.operand[0].kind == OperandKind::kMem, "LOCK has a memory destination");
}

// Every shorter piece wants more bytes; the exact piece is the same instruction.
void check_length(std::span<const uint8_t> code, CodeSize code_size, const Instruction& insn) {
  ASSERT(insn.length >= 1 && insn.length <= 15 && insn.length <= code.size(), "length");
  for (size_t length = 0; length <= insn.length; ++length) {
    const std::vector<uint8_t> piece(code.begin(), code.begin() + static_cast<std::ptrdiff_t>(length));
    Instruction part;
    const DecodeStatus status = decode(piece, code_size, part);
    if (length < insn.length) {
      ASSERT(status == DecodeStatus::kTruncated, "a piece is truncated");
    } else {
      ASSERT(status == DecodeStatus::kOk && part.row == insn.row && part.length == insn.length,
             "bytes behind do not count");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto code_size = static_cast<CodeSize>(data[0] % 3);
  const std::vector<uint8_t> code(data + 1, data + size);  // exact heap block: the sanitizer sees overreads
  Instruction insn;
  const DecodeStatus status = decode(code, code_size, insn);
  if (status == DecodeStatus::kTruncated) {
    ASSERT(code.size() < 15, "15 bytes are enough");
    return 0;
  }
  if (status != DecodeStatus::kOk) return 0;
  check_operands(insn);
  check_length(code, code_size, insn);
  (void)vector_info(insn);
  (void)opcode_feature(insn);
  (void)format(insn, 0xfffffffffffffff0);
  return 0;
}
