// Streams of instructions on the engine under test against the host CPU: registers, flags, vectors, memory,
// and the fault that ends them. A failing stream is made smaller, instruction by instruction.
//
//   differential_streams [--seed N] [--cases N] [--bits 32]; OSTLER_TEST_ENGINE chooses the engine
#include <fmt/format.h>

#include <cstdio>

#include "guest_runner.h"
#include "processors.h"
#include "streams/flag_liveness.h"
#include "streams/forgive.h"
#include "streams/stream.h"
#include "support/engine.h"
#include "x86/format.h"

namespace ostler::differential {
namespace {

constexpr uint64_t kResumeFlag = 1u << 16;
constexpr uint64_t kUserSpaceEnd = 0x7fff'ffff'f000;
constexpr unsigned kMostFailures = 10;
constexpr int64_t kVeryMany = 2'000'000'000;

bool keeps_flags(const TestCase& test, size_t at) {
  x86::Instruction insn;
  const std::span<const uint8_t> code(test.code);
  return x86::decode(code.subspan(at), test.code_size, insn) == x86::DecodeStatus::kOk &&
         host_keeps_flags(insn);
}

class Campaign {
 public:
  explicit Campaign(const Options& options) : options_(options) {}

  unsigned run() {
    unsigned failures = 0;
    uint64_t instructions = 0;
    std::array<uint64_t, 256> ends{};
    for (uint64_t number = 0; number < options_.cases && failures < kMostFailures; ++number) {
      Random random((options_.seed << 32) ^ (number * 0xd1342543de82ef95));
      const Stream stream = random_stream(random, host_, number % 2 == 1, options_.code_size);
      rounds_ = random() % 2 == 0 ? 1 : 3;
      instructions += stream.lengths.size();
      uint8_t vector = 0;
      if (!differences(stream, &vector).empty()) {
        ++failures;
        report(stream, number);
      }
      ++ends[vector];
    }
    fmt::print("streams: seed {}: {} streams, {} instructions, {} failures; ends:", options_.seed,
               options_.cases, instructions, failures);
    for (unsigned vector = 0; vector < 256; ++vector)
      if (ends[vector] != 0) fmt::print(" #{} {}", vector, ends[vector]);
    fmt::print("\n");
    return failures;
  }

 private:
  std::string differences(const Stream& stream, uint8_t* vector = nullptr) {
    Outcome host = host_.run(stream.test);
    if (vector != nullptr) *vector = host.vector;
    if (host.vector == kTimeout) return {};  // an engine that does not count would not come back either
    Outcome guest = guest_.run(stream.test, rounds_);
    // A loop that rewrites its own counter may be long; the host has time for some of those.
    if (guest.vector == kTimeout) guest = guest_.run(stream.test, 1, kVeryMany);
    host.state.rflags &= ~kResumeFlag;
    guest.state.rflags &= ~kResumeFlag;
    if (host.vector == 14 && host.cr2 >= kUserSpaceEnd) host.error = guest.error = 0;
    forgive_fault(stream, host, guest);
    if (test::engine_choice().translate) {
      const uint64_t dead = x86::rflags::kArithmetic & ~live_flags(stream.test, host.state.rip);
      host.state.rflags &= ~dead;
      guest.state.rflags &= ~dead;
    }
    return compare(host, guest, true);
  }

  Stream minimise(Stream stream) {
    const auto try_change = [&](auto&& change) {
      Stream simpler = stream;
      change(simpler);
      if (!differences(simpler).empty()) stream = simpler;
    };
    for (unsigned pass = 0; pass < 2; ++pass) {
      size_t at = 0;
      bool keeps = false;  // what follows it defines the flags, and stays
      for (const uint8_t length : stream.lengths) {
        if (!keeps)
          try_change([at, length](Stream& s) { std::fill_n(&s.test.code[at], length, uint8_t{0x90}); });
        keeps = keeps_flags(stream.test, at);
        at += length;
      }
      for (unsigned i = 0; i < 16; ++i) {
        try_change([i](Stream& s) { s.test.state.gpr[i] = 0; });
        try_change([i](Stream& s) { s.test.state.gpr[i] &= 0xff; });
      }
      for (const unsigned bit : {0, 2, 4, 6, 7, 10, 11})
        try_change([bit](Stream& s) { s.test.state.rflags &= ~(uint64_t{1} << bit); });
      try_change([](Stream& s) { s.test.data.fill(0); });
      try_change([](Stream& s) { s.test.state.vector = XsaveImage(); });
      try_change([](Stream& s) { s.test.state.gs_base = 0; });
      try_change([](Stream& s) { s.test.address = kCode; });
    }
    return stream;
  }

  void report(const Stream& stream, uint64_t number) {
    const Stream small = minimise(stream);
    const TestCase& test = small.test;
    std::string text = fmt::format("streams: seed {} case {} rounds {}:\n", options_.seed, number, rounds_);
    const std::span<const uint8_t> code(test.code);
    bool skipped = false;
    for (size_t at = 0; at < code.size();) {
      x86::Instruction insn;
      const auto status = x86::decode(code.subspan(at), test.code_size, insn);
      const size_t length = status == x86::DecodeStatus::kOk ? insn.length : 1;
      const bool nop = length == 1 && code[at] == 0x90;
      if (nop && !skipped) text += "    …\n";
      if (!nop) {
        text += fmt::format("    {:#x}:", test.address + at);
        for (const uint8_t byte : code.subspan(at, length)) text += fmt::format(" {:02x}", byte);
        text += fmt::format(
            "  {}\n", status == x86::DecodeStatus::kOk ? x86::format(insn, test.address + at) : "(bad)");
      }
      skipped = nop;
      at += length;
    }
    text += fmt::format("    rflags {:#x} gs {:#x}", test.state.rflags, test.state.gs_base);
    for (unsigned i = 0; i < 16; ++i)
      if (test.state.gpr[i] != 0) text += fmt::format(" r{} {:#x}", i, test.state.gpr[i]);
    text += "\n" + differences(small);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }

  const Options options_;
  unsigned rounds_ = 1;
  HostRunner host_;
  GuestRunner guest_;
};

}  // namespace
}  // namespace ostler::differential

int main(int argc, char** argv) {
  using namespace ostler::differential;
  return Campaign(parse_options(argc, argv, {.seed = 1, .cases = 5'000})).run() == 0 ? 0 : 1;
}
