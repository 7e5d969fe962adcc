// x86::flag_effect() against the interpreter: a case is run twice from states that differ in arithmetic flags
// the instruction is said not to read. Everything must come out alike but those flags, and they only where
// they are said to be kept.
#include <fmt/format.h>

#include <cstdio>

#include "guest_runner.h"
#include "integer_cases.h"
#include "processors.h"
#include "x86/flag_effect.h"
#include "x86/format.h"

namespace ostler::differential {
namespace {

constexpr uint64_t kArithmetic = x86::rflags::kArithmetic, kResume = x86::rflags::kRf;

// A jump into its own bytes goes on with other instructions.
bool jumps_into_itself(const x86::Instruction& insn) {
  return insn.operand[0].kind == x86::OperandKind::kRel && insn.imm + insn.length < insn.length;
}

// What is wrong; empty when nothing is.
std::string check(GuestRunner& runner, const TestCase& test, const x86::Instruction& insn, Random& random) {
  const x86::FlagEffect effect = x86::flag_effect(insn);
  const uint64_t flipped = random() & kArithmetic & ~uint64_t{effect.read};
  TestCase other = test;
  other.state.rflags ^= flipped;
  Outcome a = runner.run(test), b = runner.run(other);
  const uint64_t flags_a = a.state.rflags & ~kResume, flags_b = b.state.rflags & ~kResume;
  a.state.rflags = b.state.rflags = 0;
  if (a.vector != b.vector || a.error != b.error || a.cr2 != b.cr2 || a.data != b.data ||
      a.state.rip != b.state.rip || a.state.gpr != b.state.gpr)
    return fmt::format("flags {:#x} are read", flipped);
  const bool completed = a.vector == 3;  // the filler that follows, or where it jumped to
  const uint64_t kept = completed ? flipped & ~uint64_t{effect.written} : flipped;
  const uint64_t seen = flags_a ^ flags_b;
  const uint64_t forgiven = completed ? x86::undefined_flags(insn) & uint64_t{effect.written} : 0;
  if (((seen ^ kept) & ~forgiven) != 0) return fmt::format("flags {:#x} were kept, not {:#x}", seen, kept);
  return {};
}

unsigned run(const Options& options) {
  GuestRunner runner;
  const Family family = integer_family();
  unsigned failures = 0;
  for (uint64_t number = 0; number < options.cases && failures < 10; ++number) {
    Random random((options.seed << 32) ^ (number * 0xd1342543de82ef95));
    std::optional<TestCase> test;
    while (!test) test = family.generate(random);
    x86::Instruction insn;
    x86::decode(test->code, x86::CodeSize::k64, insn);
    if (jumps_into_itself(insn)) continue;
    const std::string wrong = check(runner, *test, insn, random);
    if (wrong.empty()) continue;
    ++failures;
    fmt::print("seed {} case {}: {}: {}\n", options.seed, number, x86::format(insn, test->address), wrong);
  }
  fmt::print("flag_effect: seed {}: {} cases, {} failures\n", options.seed, options.cases, failures);
  return failures;
}

}  // namespace
}  // namespace ostler::differential

int main(int argc, char** argv) {
  using namespace ostler::differential;
  return run(parse_options(argc, argv, {.seed = 1, .cases = 100'000})) == 0 ? 0 : 1;
}
