// Random cases of integer, stack, near control and string instructions.
#include "integer_cases.h"

#include <array>
#include "processors.h"
#include "support/host_vendor.h"
#include "x86/flag_effect.h"

namespace ostler::differential {
namespace {

using x86::Opcode;
using x86::OperandKind;

bool wanted(const x86::Instruction& insn) {
  for (const auto& operand : insn.operand)
    if (operand.kind == OperandKind::kSegment || operand.kind == OperandKind::kControl ||
        operand.kind == OperandKind::kDebug)
      return false;
  if (insn.segment == x86::kFs) return false;  // the host program's thread pointer
  switch (insn.opcode) {
#define CASE(name) case Opcode::k##name:
    // clang-format off
    CASE(Mov) CASE(Movzx) CASE(Movsx) CASE(Lea) CASE(Xchg) CASE(Push) CASE(Pop) CASE(Pushf) CASE(Popf)
    CASE(Lahf) CASE(Sahf) CASE(Cbw) CASE(Cwd) CASE(Bswap) CASE(Movbe) CASE(Cmov) CASE(Setcc) CASE(Xlat)
    CASE(Pusha) CASE(Popa) CASE(Daa) CASE(Das) CASE(Aaa) CASE(Aas) CASE(Aam) CASE(Aad) CASE(Salc) CASE(Arpl)
    CASE(Add) CASE(Or) CASE(Adc) CASE(Sbb) CASE(And) CASE(Sub) CASE(Xor) CASE(Cmp) CASE(Test) CASE(Inc)
    CASE(Dec) CASE(Neg) CASE(Not) CASE(Mul) CASE(Imul) CASE(Imul2) CASE(Imul3) CASE(Div) CASE(Idiv)
    CASE(Rol) CASE(Ror) CASE(Rcl) CASE(Rcr) CASE(Shl) CASE(Shr) CASE(Sar) CASE(Shld) CASE(Shrd) CASE(Bt)
    CASE(Bts) CASE(Btr) CASE(Btc) CASE(Bsf) CASE(Bsr) CASE(Tzcnt) CASE(Lzcnt) CASE(Popcnt) CASE(Andn)
    CASE(Bextr) CASE(Blsi) CASE(Blsmsk) CASE(Blsr) CASE(Bzhi) CASE(Pdep) CASE(Pext) CASE(Rorx) CASE(Sarx)
    CASE(Shlx) CASE(Shrx) CASE(Mulx) CASE(Adcx) CASE(Adox) CASE(Crc32) CASE(Xadd) CASE(Cmpxchg)
    CASE(Cmpxchg8b) CASE(Cmpxchg16b) CASE(Jmp) CASE(JmpInd) CASE(Jcc) CASE(Jcxz) CASE(Loop) CASE(Loope)
    CASE(Loopne) CASE(Call) CASE(CallInd) CASE(Ret) CASE(Enter) CASE(Leave) CASE(Movs) CASE(Cmps)
    CASE(Stos) CASE(Lods) CASE(Scas) CASE(Ins) CASE(Outs) CASE(In) CASE(Out) CASE(Clc) CASE(Stc) CASE(Cmc)
    CASE(Cld) CASE(Std) CASE(Cli) CASE(Sti) CASE(Hlt) CASE(Nop) CASE(Pause) CASE(Movnti) CASE(Lfence)
    CASE(Mfence) CASE(Sfence) CASE(Prefetch) CASE(Prefetchw) CASE(Ud2)
    // clang-format on
#undef CASE
                                                                                    return true;
    default:
      return false;
  }
}

constexpr uint64_t kOverflow = 1u << 11;

bool is_string(Opcode opcode) {
  return opcode >= Opcode::kMovs && opcode <= Opcode::kOuts;
}

struct Encoding {
  unsigned map;
  uint8_t opcode;
  bool vex;
};

Encoding random_opcode(Random& random) {
  const auto byte = static_cast<uint8_t>(random());
  switch (random() % 16) {
    case 0: {
      static constexpr uint8_t kBmi[] = {0xf2, 0xf3, 0xf5, 0xf6, 0xf7};
      return {2, kBmi[random() % std::size(kBmi)], true};
    }
    case 1: {
      static constexpr uint8_t kLegacy[] = {0xf0, 0xf1, 0xf6};
      return {2, kLegacy[random() % std::size(kLegacy)], false};
    }
    case 2:
      return {3, 0xf0, true};
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
      return {1, byte, false};
    default:
      return {0, byte, false};
  }
}

std::optional<TestCase> generate(Random& random) {
  TestCase test;
  test.code = random_integer_code(random);
  x86::Instruction insn;
  if (x86::decode(test.code, x86::CodeSize::k64, insn) != x86::DecodeStatus::kOk) return std::nullopt;
  randomize(test, random);
  if (random() % 16 != 0) aim(test, insn, interesting_address(random));
  auto& gpr = test.state.gpr;
  if (is_string(insn.opcode)) {
    gpr[x86::kRsi] = interesting_address(random);
    gpr[x86::kRdi] = random() % 4 == 0 ? gpr[x86::kRsi] + random() % 32 - 16 : interesting_address(random);
    gpr[x86::kRcx] = random() % 8 == 0 ? interesting_value(random) : random() % 300;
    if (random() % 2 == 0) {
      // Runs of equal bytes, for REPE and REPNE.
      for (size_t i = 0; i < kDataBytes; ++i)
        test.data[i] = static_cast<uint8_t>(random() % 64 == 0 ? random() : 0x55);
      if (random() % 2 == 0) gpr[x86::kRax] = 0x5555'5555'5555'5555;
    }
  }
  // Few enough rounds for the interpreter when it jumps to itself.
  if (insn.opcode >= Opcode::kLoop && insn.opcode <= Opcode::kLoopne)
    gpr[x86::kRcx] = (insn.address_size == 4 ? random() << 32 : 0) | random() % 1000;
  if ((insn.opcode == Opcode::kDiv || insn.opcode == Opcode::kIdiv) && random() % 2 == 0)
    gpr[x86::kRdx] =
        static_cast<int64_t>(gpr[x86::kRax]) < 0 && insn.opcode == Opcode::kIdiv ? ~uint64_t{0} : 0;
  if ((insn.opcode == Opcode::kJmpInd || insn.opcode == Opcode::kCallInd) && !insn.has_memory() &&
      random() % 4 != 0)
    gpr[insn.operand[0].index / 8] = kCode + random() % (kCodePages * kPageBytes);
  return test;
}

void forgive(const x86::Instruction& insn, const TestCase&, Outcome& host, Outcome& guest) {
  // A CALL to an address that is not canonical has pushed already on the host: memory below RSP.
  if (insn.opcode == Opcode::kCallInd && host.vector == 13) guest.data = host.data;
  if (!test::host_is_intel()) {
    // Which of its two operands faults first, and what a fault of a later round finds of the flags.
    const auto faults = [](const Outcome& outcome) {
      return outcome.vector == 13 || outcome.vector == 14 || outcome.vector == 17;
    };
    // An address that is neither aligned nor canonical.
    if (host.vector == 13 && guest.vector == 17) guest.vector = host.vector;
    if (insn.opcode == Opcode::kCmps && faults(host) && faults(guest)) {
      guest.vector = host.vector;
      guest.error = host.error;
      guest.cr2 = host.cr2;
    }
    if ((insn.opcode == Opcode::kCmps || insn.opcode == Opcode::kScas) && host.vector == 14)
      guest.state.rflags = host.state.rflags;
    if (host_keeps_flags(insn) && insn.opcode != Opcode::kDiv && insn.opcode != Opcode::kIdiv) {
      const uint64_t undefined = x86::undefined_flags(insn);
      guest.state.rflags = (guest.state.rflags & ~undefined) | (host.state.rflags & undefined);
    }
  }
  // OF after a rotation of memory by an immediate over 1 is undefined, and depends on more than operand and
  // flags.
  if ((insn.opcode == Opcode::kRol || insn.opcode == Opcode::kRor) && insn.has_memory() && insn.imm != 1)
    guest.state.rflags = (guest.state.rflags & ~kOverflow) | (host.state.rflags & kOverflow);
}

}  // namespace

std::vector<uint8_t> random_integer_code(Random& random, x86::CodeSize code_size) {
  const Encoding encoding = random_opcode(random);
  std::vector<uint8_t> code = random_encoding(random, encoding.map, encoding.opcode, encoding.vex, code_size);
  x86::Instruction insn;
  if (x86::decode(code, code_size, insn) != x86::DecodeStatus::kOk || !wanted(insn) ||
      host_differs(code, insn, code_size))
    return {};
  code.resize(insn.length);
  return code;
}

Family integer_family() {
  return {.name = "integer", .generate = generate, .forgive = forgive};
}

}  // namespace ostler::differential
