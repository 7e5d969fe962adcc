#include "streams/forgive.h"

#include <cstring>
#include <span>

#include "support/host_vendor.h"
#include "x86/vector_info.h"

namespace ostler::differential {

using x86::Opcode;

namespace {

void forgive_amd(const x86::Instruction& insn, const x86::VectorInfo& info, Outcome& host, Outcome& guest) {
  // With AC set they want vectors aligned too.
  if (host.vector == 17 && info.vector_class == x86::VectorClass::kAvx) guest = host;
  if (host.vector < 12 || host.vector > 14) return;
  // Which of its operands faults first.
  if (insn.opcode == Opcode::kCmps && guest.vector >= 12 && guest.vector <= 14) {
    guest.vector = host.vector;
    guest.error = host.error;
    guest.cr2 = host.cr2;
  }
  // Of a gather's mask only the signs of elements count.
  if (info.gather) {
    const unsigned to = insn.operand[0].index, mask = insn.operand[2].index;
    std::memcpy(guest.state.vector.legacy + 160 + 16 * mask, host.state.vector.legacy + 160 + 16 * mask, 16);
    std::memcpy(guest.state.vector.ymm_high[mask], host.state.vector.ymm_high[mask], 16);
    if (!insn.vex_l) std::memcpy(guest.state.vector.ymm_high[to], host.state.vector.ymm_high[to], 16);
  }
  // A store of what raises an exception that is not masked, at an address that faults.
  if (info.vector_class == x86::VectorClass::kX87 && host.vector == 14 && guest.state.rip != host.state.rip)
    guest = host;
}

}  // namespace

void forgive_fault(const Stream& stream, Outcome& host, Outcome& guest) {
  // Where the x87 unit was last, and what it cannot do: not modelled to the bit.
  for (Outcome* outcome : {&host, &guest}) {
    std::memset(outcome->state.vector.legacy + 6, 0, 18);
    std::memset(outcome->state.vector.legacy + 28, 0, 4);
    for (unsigned i = 0; i < 8; ++i) std::memset(outcome->state.vector.legacy + 32 + 16 * i + 10, 0, 6);
  }
  const uint64_t offset = host.state.rip - stream.test.address;
  if (offset >= stream.test.code.size()) return;
  x86::Instruction insn;
  const std::span<const uint8_t> code(stream.test.code);
  if (x86::decode(code.subspan(offset), stream.test.code_size, insn) != x86::DecodeStatus::kOk) return;
  const x86::VectorInfo info = x86::vector_info(insn);
  // As in vector_differential_test.cpp: CR2 may be any address of the access within its page; an 80-bit store
  // may have written its first part; an MMX store may have reset TOP.
  if (host.vector == 14 && info.implicit_rdi) guest.cr2 = host.cr2;
  if (host.vector == 14 && info.mask_element_size != 0) {
    host.cr2 &= ~uint64_t{kPageBytes - 1};
    guest.cr2 &= ~uint64_t{kPageBytes - 1};
  }
  if (host.vector == 14 && info.memory_size == 10) guest.data = host.data;
  if (host.vector >= 12 && host.vector <= 17 && info.vector_class == x86::VectorClass::kMmx)
    std::memcpy(guest.state.vector.legacy, host.state.vector.legacy, 160);
  // An operand across 4 GiB, where the limit of a flat segment is: #GP or what else it raises (SDM 3A §5.3).
  const auto beyond_limit = [&](uint64_t base) {
    return static_cast<uint32_t>(host.cr2 - base + info.memory_size + 32) < 2u * (info.memory_size + 32u);
  };
  const bool at_limit = host.vector == 17 ||
                        (host.vector == 14 && (beyond_limit(0) || beyond_limit(stream.test.state.gs_base)));
  if (stream.test.code_size == x86::CodeSize::k32 && at_limit && (guest.vector == 12 || guest.vector == 13)) {
    guest.vector = host.vector;
    guest.error = host.error;
    guest.cr2 = host.cr2;
  }
  // Some registers are loaded or stored already.
  if (host.vector == 14 && insn.opcode == Opcode::kPusha) guest.data = host.data;
  if (host.vector == 14 && insn.opcode == Opcode::kPopa) guest.state.gpr = host.state.gpr;
  // An address that is neither aligned nor canonical: #GP or #SS.
  if (host.vector == 13 && guest.vector == 12 && info.alignment > 1) guest.vector = host.vector;
  // A CALL to an address that is not canonical has pushed already on the host.
  if (host.vector == 13 && insn.opcode == Opcode::kCallInd) guest.data = host.data;
  if (!test::host_is_intel()) forgive_amd(insn, info, host, guest);
  // Single-stepped, the host keeps the flags of a repeated comparison for its end. When it faults, AMD's have
  // set them already.
  const bool compares = insn.opcode == Opcode::kCmps || insn.opcode == Opcode::kScas;
  if ((host.vector == 1 || !test::host_is_intel()) && compares && (insn.rep || insn.repne))
    guest.state.rflags = host.state.rflags;
}

}  // namespace ostler::differential
