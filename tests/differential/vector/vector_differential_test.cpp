// Every form of vector, MMX and x87 instruction, executed by the interpreter and by the host CPU from the
// same random state: registers, flags, memory and faults must agree. A failure prints its seed and the
// smallest state found that still shows it. OSTLER_DIFFERENTIAL_SEED and OSTLER_DIFFERENTIAL_ROUNDS (cases
// per form) choose another or longer run.

#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "differential/vector/cases.h"
#include "differential/vector/guest.h"
#include "differential/vector/host_runner.h"
#include "support/host_vendor.h"
#include "x86/vector_info.h"

namespace ostler::test {
namespace {

struct Outcome {
  HostState state;
  std::vector<uint8_t> memory;
  int vector = -1;  // of the exception
  uint64_t cr2 = 0;
};

class HostSide {
 public:
  HostSide() {
    memory_ =
        static_cast<uint8_t*>(mmap(reinterpret_cast<void*>(kDataBase), kDataSize, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    if (memory_ == MAP_FAILED) std::abort();
  }
  Outcome run(const Case& test) {
    Outcome out;
    out.state = test.state;
    std::memcpy(memory_, test.memory.data(), kDataSize);
    if (const auto fault = runner_.run(test.code, out.state)) {
      out.vector = fault->vector;
      if (fault->vector == 14) out.cr2 = fault->address;
    }
    out.memory.assign(memory_, memory_ + kDataSize);
    return out;
  }

 private:
  HostRunner runner_;
  uint8_t* memory_;
};

class GuestSide {
 public:
  Outcome run(const Case& test) {
    Outcome out;
    load(test.state);
    std::memcpy(guest_.data().data(), test.memory.data(), kDataSize);
    if (const auto fault = guest_.run(test.code)) {
      out.vector = static_cast<int>(fault->vector);
      out.cr2 = fault->cr2;
    }
    store(out.state);
    out.memory.assign(guest_.data().begin(), guest_.data().end());
    return out;
  }

 private:
  void load(const HostState& state) {
    x86::CpuState& s = guest_.state();
    std::memcpy(s.gpr.data(), state.gpr, sizeof state.gpr);
    s.set_rflags(state.flags);
    std::memcpy(&s.fx, state.vector.legacy, sizeof s.fx);
    for (unsigned i = 0; i < 16; ++i) {
      std::memcpy(s.vec[i], state.vector.legacy + 160 + 16 * i, 16);
      std::memcpy(s.vec[i] + 16, state.vector.high[i], 16);
    }
  }
  void store(HostState& state) {
    const x86::CpuState& s = guest_.state();
    std::memcpy(state.gpr, s.gpr.data(), sizeof state.gpr);
    state.flags = s.rflags();
    std::memcpy(state.vector.legacy, &s.fx, sizeof s.fx);
    for (unsigned i = 0; i < 16; ++i) {
      std::memcpy(state.vector.legacy + 160 + 16 * i, s.vec[i], 16);
      std::memcpy(state.vector.high[i], s.vec[i] + 16, 16);
    }
  }
  VectorGuest guest_;
};

std::string hex(const uint8_t* bytes, unsigned size) {
  std::string out;
  for (unsigned k = size; k-- > 0;) out += fmt::format("{:02x}", bytes[k]);
  return out;
}

// Of each element of a gather's mask only the sign counts: what of the rest a fault leaves differs.
void keep_signs(Outcome& outcome, const x86::Instruction& insn) {
  const unsigned mask = insn.operand[2].index, size = insn.vex_w ? 8 : 4;
  for (uint8_t* half : {outcome.state.vector.legacy + 160 + 16 * mask, outcome.state.vector.high[mask]})
    for (unsigned at = 0; at < 16; at += size)
      std::memset(half + at, (half[at + size - 1] & 0x80) != 0 ? 0xff : 0, size);
  if (insn.vex_l) return;
  std::memset(outcome.state.vector.high[mask], 0, 16);
  std::memset(outcome.state.vector.high[insn.operand[0].index], 0, 16);
}

uint64_t effective_address(const x86::Instruction& insn, const HostState& state) {
  uint64_t address = static_cast<uint64_t>(insn.disp);
  if (insn.base < x86::kNoRegister) address += state.gpr[insn.base / 8];
  if (insn.index != x86::kNoRegister) address += state.gpr[insn.index / 8] << insn.scale;
  return address;
}

// What AMD's processors do otherwise than Intel's is made equal.
void forgive_amd(const x86::Instruction& insn, const x86::VectorInfo& info, Outcome& host, Outcome& guest) {
  if (host.vector >= 0 && info.gather) {
    keep_signs(host, insn);
    keep_signs(guest, insn);
  }
  // A store that faults has not told of its conversion yet.
  if (host.vector == 14 && insn.opcode == x86::Opcode::kVcvtps2ph) {
    std::memcpy(guest.state.vector.legacy + 24, host.state.vector.legacy + 24, 4);
    if (guest.vector == 19) guest.vector = host.vector, guest.cr2 = host.cr2;
  }
  // An address that faults comes before the exceptions of what is stored there.
  if (host.vector == 14 && info.vector_class == x86::VectorClass::kX87 && guest.vector == -1) guest = host;
  // Operands of SHA instructions need no alignment.
  if (insn.opcode >= x86::Opcode::kSha1nexte && insn.opcode <= x86::Opcode::kSha256msg2 && guest.vector == 13)
    guest = host;
  if (insn.opcode == x86::Opcode::kSha1rnds4 && guest.vector == 13) guest = host;
  // Of state that is stored, the x87 pointers are only there after an exception, and MXCSR has a bit
  // more.
  switch (insn.opcode) {
    case x86::Opcode::kFxsave:
    case x86::Opcode::kXsave:
    case x86::Opcode::kXsaveopt:
    case x86::Opcode::kXsavec:
    case x86::Opcode::kXsaves:
      for (Outcome* outcome : {&host, &guest}) {
        const uint64_t at = effective_address(insn, outcome->state) - kDataBase;
        if (at > kDataSize - 512) continue;
        std::memset(outcome->memory.data() + at + 6, 0, 18);
        std::memset(outcome->memory.data() + at + 28, 0, 4);
      }
      break;
    default:
      break;
  }
}

// "" when equal.
std::string difference(const Case& test, Outcome host, Outcome guest) {
  std::string out;
  x86::Instruction insn;
  testable(test.code, insn);
  const x86::VectorInfo info = x86::vector_info(insn);
  if (!host_is_intel()) forgive_amd(insn, info, host, guest);
  // Where processors differ among themselves or do what no manual says:
  // - CR2 of a masked move or a block of state may be any address of the access within the faulting page;
  // - an 80-bit store may have written its first part when the second faults;
  // - XRSTOR of an area with a bad MXCSR may have restored other components;
  // - an MMX store that faults may have reset TOP already.
  const bool any_address = info.mask_element_size != 0 || info.implicit_rdi ||
                           info.vector_class == x86::VectorClass::kNone ||
                           (info.x87_control && info.memory_size >= 14);
  const uint64_t cr2_mask = any_address ? ~uint64_t{4095} : ~uint64_t{0};
  const bool ignore_memory = info.memory_size == 10 && host.vector == 14;
  const bool ignore_x87 = info.vector_class == x86::VectorClass::kMmx && host.vector == 14;

  if (host.vector == 13 && guest.vector == 13 && insn.opcode == x86::Opcode::kXrstor) return out;
  if (host.vector != guest.vector)
    out += fmt::format("  exception: host {} guest {}\n", host.vector, guest.vector);
  else if (((host.cr2 ^ guest.cr2) & cr2_mask) != 0)
    out += fmt::format("  CR2: host {:#x} guest {:#x}\n", host.cr2, guest.cr2);
  for (unsigned i = 0; i < 16; ++i)
    if (host.state.gpr[i] != guest.state.gpr[i])
      out += fmt::format("  gpr[{}]: host {:#x} guest {:#x}\n", i, host.state.gpr[i], guest.state.gpr[i]);
  constexpr uint64_t kArithmetic = 0x8d5;
  if (((host.state.flags ^ guest.state.flags) & kArithmetic) != 0)
    out += fmt::format("  flags: host {:#x} guest {:#x}\n", host.state.flags & kArithmetic,
                       guest.state.flags & kArithmetic);
  const XsaveImage &h = host.state.vector, &g = guest.state.vector;
  auto compare = [&](const char* name, unsigned i, const uint8_t* a, const uint8_t* b, unsigned size) {
    if (std::memcmp(a, b, size) != 0)
      out += fmt::format("  {}[{}]: host {} guest {}\n", name, i, hex(a, size), hex(b, size));
  };
  compare("mxcsr", 0, h.legacy + 24, g.legacy + 24, 4);
  compare("fcw", 0, h.legacy, g.legacy, 2);
  if (!ignore_x87) {
    compare("fsw", 0, h.legacy + 2, g.legacy + 2, 2);
    compare("ftw", 0, h.legacy + 4, g.legacy + 4, 1);
  }
  for (unsigned i = 0; i < 8 && !ignore_x87; ++i)
    compare("st", i, h.legacy + 32 + 16 * i, g.legacy + 32 + 16 * i, 10);
  for (unsigned i = 0; i < 16; ++i) compare("xmm", i, h.legacy + 160 + 16 * i, g.legacy + 160 + 16 * i, 16);
  for (unsigned i = 0; i < 16; ++i) compare("ymmh", i, h.high[i], g.high[i], 16);
  const bool memory_differs = !ignore_memory && host.memory != guest.memory;
  for (unsigned i = 0; i < kDataSize && memory_differs; i += 16)
    compare("mem", i, host.memory.data() + i, guest.memory.data() + i, 16);
  return out;
}

class VectorDifferential : public testing::Test {
 protected:
  std::string run(const Case& test) { return difference(test, host().run(test), guest().run(test)); }

  // Clears what the failure does not need.
  Case minimize(Case test) {
    const int exception = host().run(test).vector;
    auto try_without = [&](auto&& clear) {
      Case smaller = test;
      clear(smaller);
      if (host().run(smaller).vector == exception && !run(smaller).empty()) test = smaller;
    };
    for (unsigned i = 0; i < 16; ++i) {
      try_without([&](Case& c) { c.state.gpr[i] = 0; });
      try_without([&](Case& c) { std::memset(c.state.vector.legacy + 160 + 16 * i, 0, 16); });
      try_without([&](Case& c) { std::memset(c.state.vector.high[i], 0, 16); });
    }
    for (unsigned i = 0; i < 8; ++i)
      try_without([&](Case& c) { std::memset(c.state.vector.legacy + 32 + 16 * i, 0, 16); });
    for (unsigned i = 0; i < kDataSize; i += 16)
      try_without([&](Case& c) { std::memset(c.memory.data() + i, 0, 16); });
    try_without([&](Case& c) { c.state.flags = 0x202; });
    return test;
  }

  // One of each for all tests: the host's signal handlers and mapping stay.
  static HostSide& host() {
    static HostSide side;
    return side;
  }
  static GuestSide& guest() {
    static GuestSide side;
    return side;
  }
};

uint64_t option(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

TEST_F(VectorDifferential, ExtendedStateAgreesWithTheHost) {
  const uint64_t seed = option("OSTLER_DIFFERENTIAL_SEED", 1);
  const uint64_t cases = option("OSTLER_DIFFERENTIAL_ROUNDS", 100) * 500;
  fmt::print("seed {}, {} cases\n", seed, cases);
  Random random(seed);
  unsigned failures = 0;
  for (uint64_t i = 0; i < cases && failures < 10; ++i) {
    const Case test = random_extended_state_case(random);
    if (run(test).empty()) continue;
    const Case smallest = minimize(test);
    ADD_FAILURE() << "seed " << seed << "\n"
                  << describe(smallest) << "exception on the host " << host().run(smallest).vector
                  << ", differs:\n"
                  << run(smallest);
    ++failures;
  }
}

TEST_F(VectorDifferential, EveryFormAgreesWithTheHost) {
  const uint64_t seed = option("OSTLER_DIFFERENTIAL_SEED", 1);
  const uint64_t rounds = option("OSTLER_DIFFERENTIAL_ROUNDS", 100);
  const std::vector<Form> forms = enumerate_forms();
  fmt::print("seed {}, {} forms, {} cases each\n", seed, forms.size(), rounds);
  ASSERT_GT(forms.size(), 3000u);
  Random random(seed);
  unsigned failures = 0;
  for (const Form& form : forms) {
    for (uint64_t i = 0; i < rounds; ++i) {
      const Case test = random_case(form, random);
      if (run(test).empty()) continue;
      const Case smallest = minimize(test);
      ADD_FAILURE() << "seed " << seed << "\n"
                    << describe(smallest) << "exception on the host " << host().run(smallest).vector
                    << ", differs:\n"
                    << run(smallest);
      ++failures;
      break;
    }
    ASSERT_LT(failures, 100u) << "giving up";
  }
}

}  // namespace
}  // namespace ostler::test
