// Random control flow, translated and interpreted: the same registers and memory. Many small functions, in
// pages that lie at several places, call, return, drop return addresses, jump out of each other, change
// between user and supervisor, overwrite each other's code, and as a supervisor map their pages elsewhere.
// OSTLER_CONTROL_SEED and OSTLER_CONTROL_ROUNDS choose other streams than CI's, and more of them.
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

// Two sets of code pages; the places where one of them is mapped; a stack that grows deep.
constexpr uint64_t kCode[] = {0x40000, 0x44000}, kPages = 4, kStub = 0x50000;
constexpr uint64_t kPlaces[] = {0x40000, 0x180000, 0x1c3000}, kStack = 0x200000, kStackSize = 0xff000;
constexpr unsigned kFunction = 256, kFunctions = kPages * kPageSize / kFunction;
constexpr unsigned kConstant = 7;  // where each function has one that others write

uint64_t entry_of(uint64_t linear) {
  return kTables + 3 * kPageSize + linear / kPageSize * 8;
}

class Functions {
 public:
  Functions(uint64_t seed, bool supervisor) : random_(seed), supervisor_(supervisor) {}
  // The code of all pages of one set.
  std::vector<uint8_t> make() {
    std::vector<uint8_t> all;
    for (unsigned n = 0; n < kFunctions; ++n) {
      code_.clear();
      start_ = n * kFunction;
      put({0x83, 0xeb, 1, 0x79, 1, 0xf4});  // sub ebx, 1; jns on; hlt
      put({0xbf, 1, 2, 3, 4});              // mov edi, constant
      for (unsigned ops = below(7); ops-- > 0;) add_one();
      switch (below(40)) {
        case 0:
          return_to_function();
          break;
        case 1:
          branch(0xe9);
          break;
        case 2:
          put({0xc2, 8, 0});  // ret 8
          break;
        default:
          put({0xc3});
      }
      // Now and then across the end of a page.
      code_.resize(kFunction, 0x90);
      all.insert(all.end(), code_.begin(), code_.end());
    }
    return all;
  }

 private:
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  void put(std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) code_.push_back(static_cast<uint8_t>(byte));
  }
  void put32(uint64_t value) {
    for (unsigned i = 0; i < 4; ++i) code_.push_back(static_cast<uint8_t>(value >> 8 * i));
  }
  unsigned any() { return below(kFunctions) * kFunction; }
  void branch(unsigned opcode) {
    put({opcode});
    put32(any() - (start_ + code_.size() + 4));
  }
  void function_to_rax() {
    put({0x49, 0x8d, 0x84, 0x24});  // lea rax, [r12 + function]
    put32(any());
  }
  void return_to_function() {
    function_to_rax();
    if (below(2) == 0)
      put({0x50, 0xc3});  // push rax; ret
    else
      put({0xff, 0xe0});  // jmp rax
  }
  void map_elsewhere() {
    const uint64_t page = kPlaces[1 + below(2)] + below(kPages) * kPageSize;
    put({0xb8});  // mov eax, entry
    put32(entry_of(page));
    put({0x48, 0x81, 0x30});  // xor qword [rax], from one set to the other
    put32(kCode[0] ^ kCode[1]);
    put({0x0f, 0x01, 0x3c, 0x25});  // invlpg [page]
    put32(page);
  }
  void add_one() {
    // What loses the way back ends most streams soon, so it is rare.
    unsigned what = below(supervisor_ ? 19 : 17);
    if (what >= 8 && what <= 12 && what != 10 && below(20) != 0) what = below(8);
    switch (what) {
      case 0:
      case 1:
      case 2:
      case 3:
        return branch(0xe8);
      case 4:
      case 5:
        function_to_rax();
        return put({0xff, 0xd0});  // call rax
      case 6:
        return put({0x4d, 0x87, 0xec});  // xchg r12, r13
      case 7:
        return put({0x4d, 0x87, 0xf4});  // xchg r12, r14
      case 8:
        return put({0x52});  // push rdx
      case 9:
        return put({0x5e});  // pop rsi
      case 10:
        put({0x41, 0x89, 0x9c, 0x24});  // mov [r12 + constant], ebx
        return put32(any() + kConstant);
      case 11:
        return put({0x48, 0x83, 0xc4, 8});  // add rsp, 8
      case 12:
        return below(4) == 0 ? put({0x4c, 0x89, 0xfc})
                             : put({0x49, 0x89, 0xe7});  // mov rsp, r15; mov r15, rsp
      case 13:
        return put({0x0f, 0x05});  // syscall
      case 14:                     // mov rsi, [r10]; lea cx, [rip]; mov rbp, [r10 + 8]; mov [r10 + 16], rdi
        return put(
            {0x49, 0x8b, 0x32, 0x66, 0x8d, 0x0d, 0, 0, 0, 0, 0x49, 0x8b, 0x6a, 8, 0x49, 0x89, 0x7a, 16});
      case 15:
        return put({0x48, 0x01, 0xda, 0x48, 0x11, 0xd6});  // add rdx, rbx; adc rsi, rdx
      case 16:
        return put({0x66, 0x41, 0x83, 0xc2, 8});  // add r10w, 8
      case 17:
        return map_elsewhere();
      default:
        return put({0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8});  // mov rax, cr3; mov cr3, rax
    }
  }

  std::mt19937_64 random_;
  const bool supervisor_;
  unsigned start_ = 0;
  std::vector<uint8_t> code_;
};

class Side {
 public:
  Side(bool translated, bool share_all) : rig({.cache_bytes = size_t{1} << 20, .share_all = share_all}) {
    if (!translated) rig.interpreter->set_native(nullptr);
  }
  interp::Exit run(uint64_t seed, bool supervisor) {
    std::memset(rig.at(0x20000), 0, 0x10000);
    std::memset(rig.at(kStack), 0, kStackSize);
    rig.map();  // a supervisor that got lost may have written them
    for (const uint64_t place : kPlaces)
      for (uint64_t page = 0; page < kPages; ++page)
        store_le<uint64_t>(rig.at(entry_of(place + page * kPageSize)), (kCode[0] + page * kPageSize) | 7);
    for (unsigned set = 0; set < 2; ++set) write(kCode[set], Functions(seed * 2 + set, supervisor).make());
    // push rcx; push r11; call [r12 + a function]; pop r11; pop rcx; sysret
    write(kStub, {0x51, 0x41, 0x53, 0x49, 0x8d, 0x84, 0x24, 0, static_cast<uint8_t>(seed % kFunctions), 0, 0,
                  0xff, 0xd0, 0x41, 0x5b, 0x59, 0x48, 0x0f, 0x07});
    rig.start(supervisor ? 0 : 3);
    x86::CpuState& s = rig.state();
    std::mt19937_64 random(seed);
    for (unsigned i = 0; i < 16; ++i) s.gpr[i] = random();
    s.gpr[x86::kRbx] = seed % 8 == 0 ? 70'000 : random() % 2000;
    s.gpr[x86::kRsp] = s.gpr[x86::kR15] = kStack + kStackSize / 4 * 3;
    s.gpr[x86::kR10] = 0x28000 + random() % 0x1000;
    for (unsigned i = 0; i < 3; ++i) s.gpr[x86::kR12 + i] = kPlaces[i];
    s.set_rflags(x86::rflags::kFixed1);
    s.cr4 |= x86::cr4::kOsxsave;
    s.xcr0 = 7;
    s.msr.efer |= x86::efer::kSce;
    s.msr.star = uint64_t{8} << 32 | uint64_t{16 | 3} << 48;
    s.msr.lstar = kStub;
    s.msr.sfmask = 0x47700;
    s.rip = kPlaces[seed % 3] + seed % kFunctions * kFunction;
    rig.interpreter->state_changed();
    return rig.interpreter->run(int64_t{1} << 40);
  }

  Rig rig;

 private:
  void write(uint64_t phys, const std::vector<uint8_t>& bytes) {
    std::memcpy(rig.at(phys), bytes.data(), bytes.size());
    rig.space.ram_written(*rig.block, phys, bytes.size());
  }
};

uint64_t option(const char* name, uint64_t standard) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : standard;
}

class ControlStreams : public ::testing::TestWithParam<bool> {};

TEST_P(ControlStreams, TranslatedAsInterpreted) {
  Side translated(true, GetParam()), interpreted(false, false);
  uint64_t ended = 0;
  const uint64_t first = option("OSTLER_CONTROL_SEED", 1) * 1'000'000;
  const uint64_t rounds = option("OSTLER_CONTROL_ROUNDS", 1000);
  for (uint64_t seed = first; seed < first + rounds; ++seed) {
    const bool supervisor = seed % 3 == 0;
    const interp::Exit mine = translated.run(seed, supervisor), other = interpreted.run(seed, supervisor);
    ASSERT_EQ(static_cast<int>(mine), static_cast<int>(other)) << "seed " << seed;
    const x86::CpuState &a = translated.rig.state(), &b = interpreted.rig.state();
    ASSERT_EQ(a.rip, b.rip) << "seed " << seed;
    ended += static_cast<int32_t>(a.gpr[x86::kRbx]) < 0;
    for (unsigned i = 0; i < 16; ++i) ASSERT_EQ(a.gpr[i], b.gpr[i]) << "seed " << seed << " register " << i;
    ASSERT_EQ(a.cpl(), b.cpl()) << "seed " << seed;
    ASSERT_EQ(0, std::memcmp(translated.rig.at(0), interpreted.rig.at(0), kTables)) << "seed " << seed;
  }
  EXPECT_GT(translated.rig.runner->statistics().entries, 1000u);
  EXPECT_GT(translated.rig.shared->cache->statistics().evictions, 0u);
  EXPECT_GT(ended, rounds / 4) << "streams that did not get lost";
  // What goes astray in host memory that is not there would be executed again, and not be seen.
  EXPECT_EQ(translated.rig.runner->statistics().host_faults, 0u);
}

INSTANTIATE_TEST_SUITE_P(Sharing, ControlStreams, ::testing::Bool(),
                         [](const auto& one) { return std::string(one.param ? "all" : "some"); });

}  // namespace
}  // namespace ostler::bt
