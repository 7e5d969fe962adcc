// Random code of a kernel, translated and interpreted: the same registers, flags and memory. What only a
// kernel may execute is not in the streams that run on the host's own processor (tests/differential).
// Neighbouring pages lie apart in physical memory, and the stack pointer and the operands near their edges.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

// Linear 0x20000 to 0x27fff: stack and data; where page i of it lies in physical memory.
constexpr uint64_t kArea = 0x20000, kPages = 8, kPhysical = 0x80000;
constexpr uint64_t phys_of(uint64_t page) {
  return kPhysical + page * 5 % 8 * 2 * kPageSize;
}

class Side {
 public:
  explicit Side(bool translated) : rig({.cache_bytes = size_t{4} << 20}) {
    rig.map();
    for (uint64_t page = 0; page < kPages; ++page)
      store_le<uint64_t>(rig.at(kTables + 3 * kPageSize) + 8 * (kArea / kPageSize + page), phys_of(page) | 7);
    if (!translated) rig.interpreter->set_native(nullptr);
  }
  interp::Exit run(const std::vector<uint8_t>& code, uint64_t seed) {
    std::mt19937_64 random(seed);
    for (uint64_t at = kPhysical; at < kPhysical + 16 * kPageSize; at += 8) store_le(rig.at(at), random());
    rig.start(0);
    x86::CpuState& s = rig.state();
    for (unsigned i = 0; i < 16; ++i) s.gpr[i] = random();  // what follows them is zero for good
    for (const unsigned reg : {x86::kRsp, x86::kRbx, x86::kRsi, x86::kRdi})
      s.gpr[reg] = kArea + (1 + random() % (kPages - 2)) * kPageSize + random() % 33 * 8 - 128;
    s.gpr[x86::kRcx] = random() % 8;
    s.set_rflags(x86::rflags::kFixed1);
    s.cr4 |= x86::cr4::kFsgsbase;
    s.gdtr = {.base = kArea + kPageSize - 60, .limit = static_cast<uint16_t>(random() % 128)};
    rig.interpreter->state_changed();
    for (size_t i = 0; i < code.size(); ++i) rig.code_at(kText + i, {code[i]});
    return rig.interpreter->run(100000);
  }

  Rig rig;
};

class Stream {
 public:
  explicit Stream(uint64_t seed) : random_(seed) {}
  std::vector<uint8_t> make() {
    const unsigned count = 4 + below(24);
    for (unsigned i = 0; i < count; ++i) add_one();
    put({0xf4});
    return std::move(code_);
  }

 private:
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  void put(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) code_.push_back(static_cast<uint8_t>(byte));
  }
  // RAX, RDX, RBP and R8 to R15: not what addresses are made of.
  unsigned free_register() {
    constexpr unsigned kFree[] = {0, 2, 5, 8, 9, 10, 12, 13, 14, 15};
    return kFree[below(10)];
  }
  unsigned disp() { return (below(64) * 4 - 128) & 0xff; }

  void add_one() {
    const unsigned reg = free_register(), low = reg & 7, high = reg >> 3;
    switch (below(25)) {
      case 0:
      case 1:
        return put({0x40 | high, 0x50 | low});  // push
      case 2:
      case 3:
        return put({0x40 | high, 0x58 | low});  // pop
      case 4:
      case 5:
        return put({0x9c});  // pushf
      case 6:
        return put({0x48, 0x81, 0x24, 0x24, 0xd5, 0x08, 0x00, 0x00, 0x9d});  // and [rsp], flags; popf
      case 7:
        return put({0x48 | high << 2, 0x8b, 0x44 | low << 3, 0x24, disp()});  // mov reg, [rsp + disp]
      case 8:
        return put({0x48 | high << 2, 0x89, 0x44 | low << 3, 0x24, disp()});  // mov [rsp + disp], reg
      case 9:
        return put({0x48, 0x83, below(2) == 0 ? 0xc4u : 0xecu, below(16) * 8});  // add, sub rsp, imm
      case 10:
        return put({0x48, 0x8d, 0x64, 0x24, disp() & 0xf8});  // lea rsp, [rsp + disp]
      case 11:
        return put({0x48 | high << 2, 0x01, 0x43 | low << 3, disp()});  // add [rbx + disp], reg
      case 12:
        return put({0x48 | high << 2, 0x33, 0x46 | low << 3, disp()});  // xor reg, [rsi + disp]
      case 13:
        return put({0xe8, 0, 0, 0, 0});  // call to what follows
      case 14:
        return put({0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3});  // call f; jmp on; f: ret
      case 15:
        return put({0xfa});  // cli
      case 16:
        return put({0x48, 0x8f, 0x43, disp()});  // pop [rbx + disp]
      case 17:
        return put({0xff, 0x73, disp()});  // push [rbx + disp]
      case 18:
        return put({0x48, below(2) == 0 ? 0xa5u : 0xabu});  // movsq, stosq
      case 19:
        return put({0x0f, 0x01, 0xf8});  // swapgs
      case 20:
        return put({0xf3, 0x48 | high, 0x0f, 0xae, 0xc0 | low});  // rdfsbase
      case 21:  // call f; jmp on; f: call t; ud2; t: lea rsp, [rsp + 8]; ret
        return put(
            {0xe8, 2, 0, 0, 0, 0xeb, 13, 0xe8, 2, 0, 0, 0, 0x0f, 0x0b, 0x48, 0x8d, 0x64, 0x24, 8, 0xc3});
      case 22:
        put({0xc6, 0x43, disp(), below(128)});  // mov byte [rbx + disp], a selector
        put({0xc6, 0x43, code_.at(code_.size() - 2) + 1u, 0});
        return put({0x0f, 0x00, 0x6b, code_.at(code_.size() - 2) - 1u});  // verw [rbx + disp]
      case 23:
        put({0x40 | high, 0xb8 | low, below(16) * 8, 0, 0, 0});  // mov reg, a selector with RPL 0
        return put({0x40 | high, 0x0f, 0x00, 0xe8 | low});       // verw reg
      default:
        return put({0x75, 2, 0x48 | high, 0x90 | low});  // jnz over xchg rax, reg
    }
  }

  std::mt19937_64 random_;
  std::vector<uint8_t> code_;
};

TEST(KernelStreams, TranslatedAsInterpreted) {
  Side translated(true), interpreted(false);
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    const std::vector<uint8_t> code = Stream(seed).make();
    const interp::Exit mine = translated.run(code, seed), other = interpreted.run(code, seed);
    ASSERT_EQ(static_cast<int>(mine), static_cast<int>(other)) << "seed " << seed;
    const x86::CpuState &a = translated.rig.state(), &b = interpreted.rig.state();
    for (unsigned i = 0; i < 16; ++i) ASSERT_EQ(a.gpr[i], b.gpr[i]) << "seed " << seed << " register " << i;
    ASSERT_EQ(a.rip, b.rip) << "seed " << seed;
    // At a fault, flags that are dead may be anything.
    if (mine == interp::Exit::kHalted) {
      ASSERT_EQ(a.rflags(), b.rflags()) << "seed " << seed;
    }
    ASSERT_EQ(0, std::memcmp(translated.rig.at(kArea), interpreted.rig.at(kArea), 0x100000))
        << "seed " << seed;
  }
  EXPECT_GT(translated.rig.runner->statistics().entries, 3000u);
}

}  // namespace
}  // namespace ostler::bt
