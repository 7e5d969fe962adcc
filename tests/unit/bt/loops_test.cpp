// Loops that are unrolled: what their iterations share, and random ones, translated and interpreted: the same
// registers, memory, faults and page tables. OSTLER_LOOPS_SEED and OSTLER_LOOPS_ROUNDS choose other loops
// than CI's, and more of them.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kData = 0x30000, kPages = 8;

// mov rax, [rsi]; add [rdi], rax; add rsi, 8; lea rdi, [rdi + 8]; dec rcx; jnz back; hlt
const Bytes kSum = {0x48, 0x8b, 0x06, 0x48, 0x01, 0x07, 0x48, 0x83, 0xc6, 0x08,
                    0x48, 0x8d, 0x7f, 0x08, 0x48, 0xff, 0xc9, 0x75, 0xed, 0xf4};

TEST(Loops, IterationsShareTheirChecks) {
  const GuestCode code = read_block(kSum);
  ASSERT_EQ(code.copies, 4u);
  ASSERT_EQ(code.count, 24u);
  EXPECT_EQ(code.bytes, kSum.size() - 1);
  for (unsigned i = 0; i < code.count; ++i) {
    const GuestInsn& g = code.insns[i];
    const unsigned copy = i / 6, which = i % 6;
    EXPECT_EQ(g.at, code.insns[which].at);
    EXPECT_EQ(g.share, which < 2 ? which + 1 : 0u) << i;
    EXPECT_EQ(g.share_here, which < 2 && copy == 0) << i;
    EXPECT_EQ(g.moved, which < 2 ? 8 * static_cast<int>(copy) : 0);
  }
  EXPECT_EQ(code.shares[0].size, 32u);
  EXPECT_FALSE(code.shares[0].write);
  EXPECT_EQ(code.shares[1].size, 32u);
  EXPECT_TRUE(code.shares[1].write);
  // The branches of all copies but the last leave the loop.
  for (const unsigned i : {5u, 11u, 17u}) {
    EXPECT_EQ(code.insns[i].insn.condition, 4u);
    EXPECT_EQ(code.target(code.insns[i]), kText + code.bytes);
  }
  EXPECT_EQ(code.insns[23].insn.condition, 5u);
  EXPECT_EQ(code.target(code.insns[23]), kText);
}

TEST(Loops, AnIndexThatIsScaledAndGoesDownIsAStepToo) {
  // mov edx, [rbx + rcx * 4]; dec rcx; jnz back; hlt
  const GuestCode code = read_block({0x8b, 0x14, 0x8b, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xf4});
  ASSERT_EQ(code.copies, 4u);
  EXPECT_EQ(code.insns[9].moved, -12);
  EXPECT_EQ(code.shares[0].from, -12);
  EXPECT_EQ(code.shares[0].size, 16u);
}

// The group's first byte would be further from the register than a displacement reaches.
TEST(Loops, AStepBeyondTheFurthestDisplacementEndsTheGroup) {
  // mov rax, [rsi - 2^31]; sub rsi, 8; dec rcx; jnz back; hlt
  const Bytes bytes = {0x48, 0x8b, 0x86, 0,    0,    0,    0x80, 0x48, 0x83,
                       0xee, 8,    0x48, 0xff, 0xc9, 0x75, 0xf0, 0xf4};
  const GuestCode code = read_block(bytes);
  ASSERT_EQ(code.copies, 4u);
  for (unsigned i = 0; i < code.count; ++i) EXPECT_EQ(code.insns[i].share, 0u) << i;
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  rig.put(kText, bytes);
  for (uint64_t i = 0; i < 64; ++i) store_le<uint64_t>(rig.at(kData + 8 * i), i);
  rig.start(0);
  x86::CpuState& s = rig.state();
  s.gpr[x86::kRsi] = kData + 63 * 8 + (uint64_t{1} << 31);
  s.gpr[x86::kRcx] = 7;
  ASSERT_EQ(rig.interpreter->run(int64_t{1} << 40), interp::Exit::kHalted);
  EXPECT_EQ(s.gpr[x86::kRax], 57u);
}

TEST(Loops, OthersStayAsTheyAre) {
  const Bytes other_loops[] = {
      // mov rax, [rsi]; dec rcx; jnz back: the same place each time
      {0x48, 0x8b, 0x06, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xf4},
      // mov rsi, [rsi + 8]; dec rcx; jnz back: anywhere
      {0x48, 0x8b, 0x76, 0x08, 0x48, 0xff, 0xc9, 0x75, 0xf7, 0xf4},
      // mov al, [rsi]; add rsi, 4096; dec rcx; jnz back: far apart
      {0x8a, 0x06, 0x48, 0x81, 0xc6, 0, 16, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf2, 0xf4},
      // mov al, [rsi]; inc esi; dec rcx; jnz back: the step clears the upper half
      {0x8a, 0x06, 0xff, 0xc6, 0x48, 0xff, 0xc9, 0x75, 0xf7, 0xf4},
      // mov al, [rsi]; test al, al; jz on; inc rsi; dec rcx; jnz back: another branch
      {0x8a, 0x06, 0x84, 0xc0, 0x74, 0x08, 0x48, 0xff, 0xc6, 0x48, 0xff, 0xc9, 0x75, 0xf2, 0xf4},
  };
  for (const Bytes& bytes : other_loops) EXPECT_EQ(read_block(bytes).copies, 1u) << unsigned{bytes[1]};
  EXPECT_EQ(read_block(kSum, {.unroll = false}).copies, 1u);
  EXPECT_EQ(read_block(kSum, {.count = true}).copies, 1u);
  EXPECT_EQ(read_block(kSum, {.shared_checks = false}).copies, 1u);
  EXPECT_EQ(read_block(kSum, {}, mode::kSupervisor | mode::kCpl0 | mode::kNoWindow).copies, 1u);
}

// A host fault in a later copy is found in the map of instructions: DIV's, which the host raises.
TEST(Loops, AFaultInALaterCopyIsThatOfItsInstruction) {
  Rig rig({.cache_bytes = size_t{4} << 20});
  rig.map();
  // mov ecx, [rsi]; add rsi, 4; xor edx, edx; div ecx; inc rbx; test rbx, rbx; jnz back; hlt
  rig.code_at(kText, {0x8b, 0x0e, 0x48, 0x83, 0xc6, 0x04, 0x31, 0xd2, 0xf7, 0xf1, 0x48, 0xff, 0xc3, 0x48,
                      0x85, 0xdb, 0x75, 0xee, 0xf4});
  for (unsigned good = 0; good < 12; ++good) {
    for (unsigned i = 0; i < 16; ++i) store_le<uint32_t>(rig.at(kData + 4 * i), i < good ? 1 : 0);
    rig.start(0);
    x86::CpuState& s = rig.state();
    s.gpr[x86::kRax] = 7;
    s.gpr[x86::kRbx] = 0;
    s.gpr[x86::kRsi] = kData;
    ASSERT_EQ(rig.interpreter->run(int64_t{1} << 40), interp::Exit::kShutdown);  // there is no IDT
    EXPECT_EQ(s.gpr[x86::kRbx], good);
    EXPECT_EQ(s.gpr[x86::kRsi], kData + 4 * (good + 1));
    EXPECT_EQ(s.rip, kText + 8) << good;
  }
  EXPECT_GE(rig.runner->statistics().host_faults, 12u);
}

class RandomLoop {
 public:
  explicit RandomLoop(uint64_t seed) : random_(seed) {}
  Bytes make() {
    for (unsigned ops = 1 + below(6); ops-- > 0;) access();
    for (unsigned steps = 1 + below(3); steps-- > 0;) step();
    if (below(4) == 0) access();
    if (below(2) == 0)
      put({0x48, 0xff, 0xc9});  // dec rcx
    else
      put({0x83, 0xe9, 0x01});                               // sub ecx, 1
    const unsigned condition = below(4) == 0 ? 0x7f : 0x75;  // jg, jnz
    put({condition, 256u - static_cast<unsigned>(code_.size() + 2)});
    put({0x0f, 0x92, 0xc2, 0x41, 0x11, 0xc0, 0xf4});  // setb dl; adc r8d, eax; hlt
    return code_;
  }

 private:
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  void put(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) code_.push_back(static_cast<uint8_t>(byte));
  }
  unsigned disp() { return (256 + below(33) - 16) & 0xff; }
  void access() {
    switch (below(14)) {
      case 0:
        return put({0x48, 0x8b, 0x46, disp()});  // mov rax, [rsi + d]
      case 1:
        return put({0x48, 0x03, 0x46, disp()});  // add rax, [rsi + d]
      case 2:
        return put({0x48, 0x89, 0x47, disp()});  // mov [rdi + d], rax
      case 3:
        return put({0x01, 0x47, disp()});  // add [rdi + d], eax
      case 4:
        return put({0x0f, 0xb6, 0x04, 0x1e});  // movzx eax, byte [rsi + rbx]
      case 5:
        return put({0x88, 0x44, 0x9f, disp()});  // mov [rdi + rbx * 4 + d], al
      case 6:
        return put({0x0f, 0x10, 0x46, disp()});  // movups xmm0, [rsi + d]
      case 7:
        return put({0x66, 0x0f, 0xfe, 0xc8});  // paddd xmm1, xmm0
      case 8:
        return put({0x0f, 0x11, 0x4f, disp()});  // movups [rdi + d], xmm1
      case 9:
        return put({0x48, 0x31, 0xc2});  // xor rdx, rax
      case 10:
        return put({0x11, 0x16});  // adc [rsi], edx
      case 11:
        return put({0x41, 0xff, 0x45, disp()});  // inc dword [r13 + d]
      case 12:
        return put({0x48, 0x8b, 0x46, 0x00, 0x48, 0x8d, 0x76, 0x04, 0x48, 0x2b, 0x46, disp()});  // in between
      default:
        return put({0x8a, 0x64, 0x2e, disp()});  // mov ah, [rsi + rbp + d]
    }
  }
  void step() {
    switch (below(10)) {
      case 0:
        return put({0x48, 0x83, 0xc6, disp()});  // add rsi, d
      case 1:
        return put({0x48, 0x83, 0xef, disp()});  // sub rdi, d
      case 2:
        return put({0x48, 0xff, 0xc3});  // inc rbx
      case 3:
        return put({0x48, 0xff, 0xcb});  // dec rbx
      case 4:
        return put({0x48, 0x8d, 0x7f, disp()});  // lea rdi, [rdi + d]
      case 5:
        return put({0xff, 0xc5});  // inc ebp
      case 6:
        return put({0x49, 0x83, 0xc5, disp()});  // add r13, d
      case 7:
        return put({0x48, 0x01, 0xde, 0x48, 0x83, 0xc6, 0x04});  // add rsi, rbx; add rsi, 4
      case 8:
        return put({0x48, 0x83, 0xc6, 0x10, 0x48, 0x83, 0xc7, 0x10});  // add rsi, 16; add rdi, 16
      default:
        return put({0x48, 0x8d, 0x76, 0x01});  // lea rsi, [rsi + 1]
    }
  }

  std::mt19937_64 random_;
  Bytes code_;
};

class Side {
 public:
  Side(bool translated, const Options& options) : rig(options) {
    if (!translated) rig.interpreter->set_native(nullptr);
  }
  interp::Exit run(uint64_t seed, unsigned cpl) {
    rig.map();
    std::mt19937_64 random(seed);
    for (uint64_t at = 0; at < kPages * kPageSize; at += 8) store_le<uint64_t>(rig.at(kData + at), random());
    // Not there, or only to be read.
    for (const uint64_t page : {random() % (3 * kPages), random() % (3 * kPages)}) {
      if (page >= kPages) continue;
      std::byte* entry = rig.at(kTables + 3 * kPageSize + (kData / kPageSize + page) * 8);
      store_le<uint64_t>(entry, load_le<uint64_t>(entry) & ~(page % 2 + 1));
    }
    rig.put(kText, RandomLoop(seed).make());
    rig.start(cpl);
    x86::CpuState& s = rig.state();
    for (unsigned i = 0; i < 16; ++i)
      if (i != x86::kRsp) s.gpr[i] = random();
    const auto somewhere = [&] {
      const uint64_t page = kData + (1 + random() % (kPages - 2)) * kPageSize;
      return random() % 2 == 0 ? page - 64 + random() % 128 : page + random() % kPageSize;
    };
    for (const unsigned i : {x86::kRsi, x86::kRdi, x86::kR13}) s.gpr[i] = somewhere();
    s.gpr[x86::kRbx] = random() % 64;
    s.gpr[x86::kRbp] = random() % 64;
    s.gpr[x86::kRcx] = 1 + random() % 70;
    s.set_rflags(x86::rflags::kFixed1 | (random() & x86::rflags::kArithmetic));
    for (auto& vector : s.vec)
      for (unsigned i = 0; i < 32; ++i) vector[i] = static_cast<uint8_t>(random());
    s.cr2 = 0;
    s.cr4 |= x86::cr4::kOsxsave;  // shared code is of the mode that most user code runs in
    s.xcr0 = 7;
    rig.interpreter->state_changed();
    return rig.interpreter->run(int64_t{1} << 40);
  }
  // Shared checks read a page that is then written in vain: processors may set the accessed flag so, too (SDM
  // 3A §4.8).
  void forget_accesses() {
    for (uint64_t at = kTables + 3 * kPageSize; at < kTables + 5 * kPageSize; at += 8)
      store_le<uint64_t>(rig.at(at), load_le<uint64_t>(rig.at(at)) & ~uint64_t{0x20});
  }
  Rig rig;
};

uint64_t option(const char* name, uint64_t standard) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : standard;
}

// As a supervisor, or as user code that may run at several places.
class RandomLoops : public ::testing::TestWithParam<bool> {};

TEST_P(RandomLoops, TranslatedAsInterpreted) {
  const unsigned cpl = GetParam() ? 3 : 0;
  Side translated(true, {.cache_bytes = size_t{4} << 20, .share_all = GetParam()}), interpreted(false, {});
  uint64_t halted = 0, unrolled = 0;
  const uint64_t first = option("OSTLER_LOOPS_SEED", 1) * 1'000'000;
  const uint64_t rounds = option("OSTLER_LOOPS_ROUNDS", 2000);
  GuestCode code;
  for (uint64_t seed = first; seed < first + rounds; ++seed) {
    const interp::Exit mine = translated.run(seed, cpl), other = interpreted.run(seed, cpl);
    ASSERT_EQ(static_cast<int>(mine), static_cast<int>(other)) << "seed " << seed;
    const x86::CpuState &a = translated.rig.state(), &b = interpreted.rig.state();
    ASSERT_EQ(a.rip, b.rip) << "seed " << seed;
    ASSERT_EQ(a.cr2, b.cr2) << "seed " << seed;
    for (unsigned i = 0; i < 16; ++i) {
      ASSERT_EQ(a.gpr[i], b.gpr[i]) << "seed " << seed << " register " << i;
      ASSERT_EQ(0, std::memcmp(a.vec[i], b.vec[i], sizeof a.vec[i])) << "seed " << seed << " vector " << i;
    }
    if (mine == interp::Exit::kHalted) {
      ++halted;
      ASSERT_EQ(a.rflags(), b.rflags()) << "seed " << seed;
    }
    translated.forget_accesses();
    interpreted.forget_accesses();
    const auto [one, two] =
        std::mismatch(translated.rig.at(0), translated.rig.at(0) + kRam, interpreted.rig.at(0));
    ASSERT_EQ(one, translated.rig.at(kRam))
        << "seed " << seed << ", " << std::to_integer<unsigned>(*one) << " instead of "
        << std::to_integer<unsigned>(*two) << " at " << std::hex << one - translated.rig.at(0);
    Rig& rig = translated.rig;
    const Mode mode = cpl == 0 ? mode::kSupervisor | mode::kCpl0 : 0;
    read_guest_code(*rig.mmu, rig.model, kText, kText, mode, {}, code);
    unrolled += code.copies != 1;
  }
  if (cpl == 0) {  // for others HLT is a fault
    EXPECT_GT(halted, rounds / 3);
    EXPECT_LT(halted, rounds * 9 / 10);
  }
  EXPECT_GT(unrolled, rounds / 2);
}

INSTANTIATE_TEST_SUITE_P(Loops, RandomLoops, ::testing::Bool(),
                         [](const auto& one) { return std::string(one.param ? "user" : "supervisor"); });

}  // namespace
}  // namespace ostler::bt
