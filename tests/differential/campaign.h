// A differential campaign: random instructions of one family, each executed on the host and in the
// interpreter from the same state, compared field by field; the first failing case is minimised and printed
// with its seed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "machine_state.h"
#include "x86/instruction.h"

namespace ostler::differential {

// SplitMix64: cheap to seed for every case, good enough for choosing bytes.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t operator()() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// What a family of instructions brings to a campaign.
struct Family {
  std::string name;
  // A random case; nothing when the dice gave no instruction of the family (it is asked again).
  std::function<std::optional<TestCase>(Random&)> generate;
  // A field in which host and guest may differ for this instruction, with the reason given in its source;
  // compares what is left. Called on both outcomes before they are compared.
  std::function<void(const x86::Instruction&, const TestCase&, Outcome& host, Outcome& guest)> forgive;
};

struct Options {
  uint64_t seed = 1;
  uint64_t cases = 100'000;
  bool compare_vectors = false;  // x87, MMX, SSE, AVX state too
  x86::CodeSize code_size = x86::CodeSize::k64;
};
// --seed N, --cases N, --bits 32 or 64; exits with a message on anything else.
Options parse_options(int argc, char** argv, Options defaults);

// Runs `options.cases` cases. Returns the number of failing ones (stops after 10), having printed each
// minimised.
unsigned run_campaign(const Family& family, const Options& options);

// The differences of two outcomes, one line each; empty when there are none.
std::string compare(const Outcome& host, const Outcome& guest, bool vectors);

// ---- for generators ----
// Values on which arithmetic turns: small, all ones, sign bits, powers of two, random.
uint64_t interesting_value(Random& random);
// Addresses around the edges of the test pages, now and then somewhere else or not canonical.
uint64_t interesting_address(Random& random);
// A random initial state: registers, arithmetic flags, data bytes.
void randomize(TestCase& test, Random& random);
// Random prefixes, ModRM, SIB, displacement and immediate around one opcode of `map` (0 one-byte, 1 0F, 2
// 0F38, 3 0F3A).
std::vector<uint8_t> random_encoding(Random& random, unsigned map, uint8_t opcode, bool vex,
                                     x86::CodeSize code_size = x86::CodeSize::k64);
// Gives the registers of the memory operand values that make its address `address`, or patches a RIP-relative
// displacement; sometimes impossible.
void aim(TestCase& test, const x86::Instruction& insn, uint64_t address);

}  // namespace ostler::differential
