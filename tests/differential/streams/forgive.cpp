#include "streams/forgive.h"

#include <cstring>
#include <span>

#include "x86/vector_info.h"

namespace ostler::differential {

using x86::Opcode;

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
  if (x86::decode(code.subspan(offset), x86::CodeSize::k64, insn) != x86::DecodeStatus::kOk) return;
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
  // An address that is neither aligned nor canonical: #GP or #SS.
  if (host.vector == 13 && guest.vector == 12 && info.alignment > 1) guest.vector = host.vector;
  // A CALL to an address that is not canonical has pushed already on the host.
  if (host.vector == 13 && insn.opcode == Opcode::kCallInd) guest.data = host.data;
  // Single-stepped, the host keeps the flags of a repeated comparison for its end.
  const bool compares = insn.opcode == Opcode::kCmps || insn.opcode == Opcode::kScas;
  if (host.vector == 1 && compares && (insn.rep || insn.repne)) guest.state.rflags = host.state.rflags;
}

}  // namespace ostler::differential
