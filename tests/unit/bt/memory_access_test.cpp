// Which paths memory accesses take; that they do what they should is shown on all engines by tests/contract.
#include <cstring>

#include "rig.h"

namespace ostler::bt {
namespace {

class MemoryAccess : public ::testing::Test {
 protected:
  explicit MemoryAccess(Options options = {}) : rig_(with_small_cache(options)) {
    rig_.map();
    rig_.start(0);
  }
  static Options with_small_cache(Options options) {
    options.cache_bytes = size_t{4} << 20;
    return options;
  }
  // Runs code that ends with HLT.
  void run(std::initializer_list<uint8_t> bytes) {
    rig_.code_at(kText, bytes);
    rig_.state().rip = kText;
    ASSERT_EQ(rig_.interpreter->run(1000), interp::Exit::kHalted);
  }
  uint64_t& reg(unsigned number) { return rig_.state().gpr[number]; }
  uint64_t interpreted() const { return rig_.runner->statistics().interpreted; }
  Rig rig_;
};

TEST_F(MemoryAccess, ReadsAcrossPagesStayInTranslatedCode) {
  for (unsigned i = 0; i < 64; ++i) *rig_.at(0x30fe0 + i) = static_cast<std::byte>(i);
  reg(x86::kRbx) = 0x30ffd;
  run({0x48, 0x8b, 0x03, 0xf3, 0x0f, 0x6f, 0x03, 0xf4});  // mov rax, [rbx]; movdqu xmm0, [rbx]; hlt
  EXPECT_EQ(reg(x86::kRax), 0x24232221201f1e1du);
  EXPECT_EQ(load_le<uint64_t>(rig_.state().vec[0] + 8), 0x2c2b2a2928272625u);
  EXPECT_EQ(interpreted(), 1u) << "HLT";
}

TEST_F(MemoryAccess, AWriteAcrossPagesReachesBoth) {
  reg(x86::kRbx) = 0x30ffd;
  reg(x86::kRax) = 0x1122334455667788;
  run({0x48, 0x01, 0x03, 0xf4});  // add [rbx], rax; hlt
  EXPECT_EQ(load_le<uint64_t>(rig_.at(0x30ffd)), 0x1122334455667788u);
}

// AH takes AL's place for the load, which must not change the address.
TEST_F(MemoryAccess, HighBytesAreLoadedThroughTheirOwnRegister) {
  *rig_.at(0x30080) = std::byte{0x77};
  reg(x86::kRax) = 0x30080;
  run({0x8a, 0x20, 0xf4});  // mov ah, [rax]; hlt
  EXPECT_EQ(reg(x86::kRax), 0x37780u);
}

// What is copied must not hide that it is misaligned.
TEST_F(MemoryAccess, AMisalignedOperandAcrossPagesFaults) {
  reg(x86::kRbx) = 0x30ff8;
  rig_.code_at(kText, {0x0f, 0x28, 0x03, 0xf4});  // movaps xmm0, [rbx]; there is no IDT
  EXPECT_EQ(rig_.interpreter->run(1000), interp::Exit::kShutdown);
}

// The last bytes of all addresses: the TLB's last slot is theirs, and what lies behind them is page 0.
TEST_F(MemoryAccess, TheEndOfAllAddressesIsNotBesideAPageThatWasForgotten) {
  constexpr uint64_t kLastSlot = uint64_t{mmu::Tlb::kEntries - 1} * kPageSize, kPage = 0x50000;
  constexpr uint64_t kTable = kTables + 6 * kPageSize;
  store_le<uint64_t>(rig_.at(kTables + 2 * kPageSize) + kLastSlot / (kPageSize * 512) * 8, kTable | 7);
  store_le<uint64_t>(rig_.at(kTable) + 511 * 8, kPage | 7);
  std::memset(rig_.at(kPage - 16), 0x77, 32);
  for (unsigned bytes = 1; bytes < 4; ++bytes) {
    rig_.start(0);
    reg(x86::kRbx) = kLastSlot;
    run({0x88, 0x4b, 0x20, 0x0f, 0x01, 0x3b, 0xf4});  // mov [rbx + 32], cl; invlpg [rbx]; hlt
    rig_.start(0);
    reg(x86::kRbx) = ~uint64_t{0} - (bytes - 1);
    // stc; mov [rbx], ecx; adc eax, eax; hlt: there is no IDT
    rig_.code_at(kText, {0xf9, 0x89, 0x0b, 0x11, 0xc0, 0xf4});
    EXPECT_EQ(rig_.interpreter->run(1000), interp::Exit::kShutdown) << bytes;
    for (unsigned i = 0; i < 32; ++i) EXPECT_EQ(*(rig_.at(kPage - 16) + i), std::byte{0x77}) << bytes;
  }
}

// mov rax, [rbx]; jmp rcx: the flags go to memory for the jump, so they need not leave it for the load.
TEST(FlagsThatWait, AreNotLoadedToBeStoredAgain) {
  const auto host_bytes = [](bool flags_wait) {
    Rig rig({.cache_bytes = size_t{4} << 20, .flags_wait = flags_wait});
    rig.map();
    rig.start(0);
    rig.code_at(kText, {0x48, 0x8b, 0x03, 0xff, 0xe1});
    rig.code_at(kText + 0x100, {0xf4});
    rig.state().gpr[x86::kRbx] = kText;
    rig.state().gpr[x86::kRcx] = kText + 0x100;
    EXPECT_EQ(rig.interpreter->run(1000), interp::Exit::kHalted);
    return rig.shared->cache->statistics().host_bytes;
  };
  EXPECT_LT(host_bytes(true), host_bytes(false));
}

}  // namespace
}  // namespace ostler::bt
