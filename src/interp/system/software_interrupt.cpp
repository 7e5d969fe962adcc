// INT n, INT3, INTO, INT1: exceptions on the way are the instruction's own, so they are simply thrown.
#include "interp/delivery.h"
#include "interp/system/event.h"
#include "interp/system/handlers.h"

namespace ostler::interp {
namespace {

const Op* deliver_software(Cpu& cpu, const Op* op, unsigned vector, Source source) {
  Event event;
  event.vector = static_cast<uint8_t>(vector);
  event.source = source;
  event.return_rip = cpu.next_rip(*op);
  if (const auto fault = deliver_event(cpu, event)) deliver_exception(cpu, *fault);
  return nullptr;
}

}  // namespace

const Op* software_interrupt(Cpu& cpu, const Op* op) {
  if (cpu.s.v8086() && iopl(cpu) < 3) x86::raise(x86::Vector::kGp, 0);
  return deliver_software(cpu, op, static_cast<unsigned>(op->insn.imm & 0xff), Source::kSoftware);
}

const Op* breakpoint(Cpu& cpu, const Op* op) {
  return deliver_software(cpu, op, 3, Source::kSoftware);
}

const Op* overflow(Cpu& cpu, const Op* op) {
  if ((cpu.s.flags_ax & 1) == 0) {
    cpu.s.rip = cpu.next_rip(*op);
    return nullptr;
  }
  return deliver_software(cpu, op, 4, Source::kSoftware);
}

const Op* icebp(Cpu& cpu, const Op* op) {
  return deliver_software(cpu, op, 1, Source::kIcebp);
}

}  // namespace ostler::interp
