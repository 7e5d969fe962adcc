// What plan_sharing() puts under one check, and that the check does nothing that its accesses do not.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kData = 0x30000;

Options small() {
  return {.cache_bytes = size_t{4} << 20};
}

TEST(SharedChecks, OneCoversTheFieldsOfAStructure) {
  // mov rax, [rbx + 16]; mov ecx, [rbx + 8]; mov [rbx + 24], eax; hlt
  const GuestCode code = read_block({0x48, 0x8b, 0x43, 0x10, 0x8b, 0x4b, 0x08, 0x89, 0x43, 0x18, 0xf4});
  ASSERT_EQ(code.count, 3u);
  for (unsigned i = 0; i < 3; ++i) {
    EXPECT_EQ(code.insns[i].share, 1u) << i;
    EXPECT_EQ(code.insns[i].share_here, i == 0) << i;
  }
  EXPECT_EQ(code.shares[0].from, 8);
  EXPECT_EQ(code.shares[0].size, 20u);
  EXPECT_TRUE(code.shares[0].write);
}

TEST(SharedChecks, OneCoversTheElementsAtAnIndexAndStaticData) {
  // mov al, [rbx + rcx * 4]; mov dl, [rbx + rcx * 4 + 1]; mov dl, [rbx + rcx * 2]; hlt
  const GuestCode index = read_block({0x8a, 0x04, 0x8b, 0x8a, 0x54, 0x8b, 0x01, 0x8a, 0x14, 0x4b, 0xf4});
  ASSERT_EQ(index.count, 3u);
  EXPECT_EQ(index.insns[0].share, 1u);
  EXPECT_EQ(index.insns[1].share, 1u);
  EXPECT_EQ(index.insns[2].share, 0u);
  // mov eax, [rip + 256]; mov ecx, [rip + 258]; hlt: 8 bytes from each other
  const GuestCode data = read_block({0x8b, 0x05, 0, 1, 0, 0, 0x8b, 0x0d, 2, 1, 0, 0, 0xf4});
  ASSERT_EQ(data.count, 2u);
  EXPECT_EQ(data.insns[1].share, 1u);
  EXPECT_EQ(data.shares[0].from, 6 + 256);
  EXPECT_EQ(data.shares[0].size, 12u);
}

TEST(SharedChecks, OneAccessAloneHasItsOwn) {
  // mov rax, [rbx]; mov rcx, [rdx]; hlt
  const GuestCode code = read_block({0x48, 0x8b, 0x03, 0x48, 0x8b, 0x0a, 0xf4});
  ASSERT_EQ(code.count, 2u);
  EXPECT_EQ(code.insns[0].share, 0u);
  EXPECT_EQ(code.insns[1].share, 0u);
}

TEST(SharedChecks, EveryWriteToTheAddressEndsIt) {
  const std::vector<Bytes> writes = {
      {0x48, 0x8b, 0x09},                    // mov rcx, [rcx]
      {0xb5, 0x01},                          // mov ch, 1
      {0xff, 0xc1},                          // inc ecx
      {0x48, 0x81, 0xc1, 0, 16, 0, 0},       // add rcx, 4096
      {0x48, 0x01, 0xc1},                    // add rcx, rax
      {0x48, 0x8d, 0x4c, 0x01, 0x08},        // lea rcx, [rcx + rax + 8]
      {0x67, 0x48, 0x8d, 0x49, 0x08},        // lea rcx, [ecx + 8]
      {0x48, 0x8d, 0x09},                    // lea rcx, [rcx]
      {0x59},                                // pop rcx
      {0x48, 0x91},                          // xchg rax, rcx
      {0x48, 0x0f, 0xc1, 0xc8},              // xadd rax, rcx
      {0x48, 0x0f, 0x44, 0xc8},              // cmovz rcx, rax
      {0x0f, 0x94, 0xc1},                    // setz cl
      {0x66, 0x48, 0x0f, 0x7e, 0xc1},        // movq rcx, xmm0
      {0x0f, 0x50, 0xc8},                    // movmskps ecx, xmm0
      {0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x00},  // pcmpistri xmm0, xmm1, 0
      {0xc4, 0xe2, 0xf3, 0xf6, 0xc0},        // mulx rax, rcx, rax
      {0xc4, 0xe2, 0xfb, 0xf6, 0xc8},        // mulx rcx, rax, rax
      {0x48, 0x0f, 0xbc, 0xc8},              // bsf rcx, rax
      {0x48, 0x0f, 0xb1, 0xc1},              // cmpxchg rcx, rax
      {0x48, 0xd3, 0xe1},                    // shl rcx, cl
      {0x0f, 0x01, 0xf9},                    // rdtscp
  };
  for (const auto& write : writes) {
    Bytes bytes = {0x8b, 0x01};  // mov eax, [rcx]
    bytes.insert(bytes.end(), write.begin(), write.end());
    bytes.insert(bytes.end(), {0x8b, 0x41, 0x04, 0xf4});  // mov eax, [rcx + 4]; hlt
    const GuestCode code = read_block(bytes);
    for (unsigned i = 2; i < code.count; ++i)
      EXPECT_FALSE(code.insns[i].share != 0 && !code.insns[i].share_here)
          << x86::mnemonic(code.insns[1].insn.opcode);
  }
  // mov ecx, [rax]; mul edx; mov ecx, [rax + 4]; and the same of [rdx]: cwd
  EXPECT_EQ(read_block({0x8b, 0x08, 0xf7, 0xe2, 0x8b, 0x48, 0x04, 0xf4}).insns[0].share, 0u);
  EXPECT_EQ(read_block({0x8b, 0x0a, 0x99, 0x8b, 0x4a, 0x04, 0xf4}).insns[0].share, 0u);
}

TEST(SharedChecks, AStepMovesWhatComesAfterIt) {
  // mov eax, [rbx + rcx * 4]; inc rcx; sub rbx, 2; lea rbx, [rbx - 1]; mov eax, [rbx + rcx * 4 + 8]; hlt
  const GuestCode code = read_block({0x8b, 0x04, 0x8b, 0x48, 0xff, 0xc1, 0x48, 0x83, 0xeb, 0x02, 0x48, 0x8d,
                                     0x5b, 0xff, 0x8b, 0x44, 0x8b, 0x08, 0xf4});
  ASSERT_EQ(code.count, 5u);
  EXPECT_TRUE(code.insns[0].share_here);
  EXPECT_EQ(code.insns[4].share, 1u);
  EXPECT_EQ(code.insns[4].moved, 1);
  EXPECT_EQ(code.shares[0].from, 0);
  EXPECT_EQ(code.shares[0].size, 13u);
}

TEST(SharedChecks, WideRangesAreLeftOut) {
  // mov eax, [rbx]; mov ecx, [rbx + 1000]; hlt
  const GuestCode code = read_block({0x8b, 0x03, 0x8b, 0x8b, 0xe8, 0x03, 0, 0, 0xf4});
  ASSERT_EQ(code.count, 2u);
  EXPECT_EQ(code.insns[1].share, 0u);
}

// Else a page that is only ever read would be in the way each time.
TEST(SharedChecks, AWriteThatABranchMaySkipIsLeftOut) {
  // mov eax, [rbx]; mov ecx, [rbx + 4]; test eax, eax; jz +3; mov [rbx + 8], eax; hlt
  const GuestCode code =
      read_block({0x8b, 0x03, 0x8b, 0x4b, 0x04, 0x85, 0xc0, 0x74, 0x03, 0x89, 0x43, 0x08, 0xf4});
  ASSERT_EQ(code.count, 5u);
  EXPECT_EQ(code.insns[1].share, 1u);
  EXPECT_FALSE(code.shares[0].write);
  EXPECT_EQ(code.insns[4].share, 0u);
}

class SharedChecksRun : public ::testing::Test {
 protected:
  SharedChecksRun() : rig_(small()) { rig_.map(); }
  uint64_t entry(uint64_t linear) const {
    return load_le<uint64_t>(rig_.block->host() + kTables + 3 * kPageSize + linear / kPageSize * 8);
  }
  uint64_t& reg(unsigned number) { return rig_.state().gpr[number]; }
  interp::Exit run(std::initializer_list<uint8_t> bytes) {
    rig_.code_at(kText, bytes);
    rig_.start(0);
    return rig_.interpreter->run(1000);
  }
  Rig rig_;
};

// mov rax, [rbx]; mov rcx, [rbx + 8]; add [rbx + 16], rax; hlt
constexpr std::initializer_list<uint8_t> kFields = {0x48, 0x8b, 0x03, 0x48, 0x8b, 0x4b,
                                                    0x08, 0x48, 0x01, 0x43, 0x10, 0xf4};

TEST_F(SharedChecksRun, FieldsAreFoundAcrossPagesToo) {
  for (uint64_t at = kData + 0xfe0; at <= kData + 0x1000; at += 4) {
    store_le<uint64_t>(rig_.at(at), 0x1111);
    store_le<uint64_t>(rig_.at(at + 8), 0x2222);
    store_le<uint64_t>(rig_.at(at + 16), 0x3333);
    reg(x86::kRbx) = at;
    ASSERT_EQ(run(kFields), interp::Exit::kHalted);
    EXPECT_EQ(reg(x86::kRax), 0x1111u);
    EXPECT_EQ(reg(x86::kRcx), 0x2222u);
    EXPECT_EQ(load_le<uint64_t>(rig_.at(at + 16)), 0x4444u);
  }
}

TEST_F(SharedChecksRun, AMissIsFilledAndTheBlockGoesOn) {
  *rig_.at(kData) = std::byte{1};
  reg(x86::kRbx) = kData;
  // mov eax, [rbx]; mov ecx, [rbx + 4]; hlt
  ASSERT_EQ(run({0x8b, 0x03, 0x8b, 0x4b, 0x04, 0xf4}), interp::Exit::kHalted);
  EXPECT_EQ(reg(x86::kRax), 1u);
  EXPECT_EQ(rig_.runner->statistics().misses, 1u);
  // Two for the blocks: there is no other version of the first.
  EXPECT_EQ(rig_.shared->cache->statistics().blocks, 2u);
}

TEST_F(SharedChecksRun, AWriteThatDoesNotHappenLeavesThePageClean) {
  reg(x86::kRsi) = kData;
  reg(x86::kRcx) = 0;
  // mov eax, [rsi]; div ecx; mov [rsi + 4], eax: there is no IDT
  ASSERT_EQ(run({0x8b, 0x06, 0xf7, 0xf1, 0x89, 0x46, 0x04, 0xf4}), interp::Exit::kShutdown);
  EXPECT_EQ(entry(kData) & 0x60, 0x20u) << "accessed, not dirty";
}

TEST_F(SharedChecksRun, AFieldOnAPageThatIsNotThereStopsNobodyBeforeIt) {
  store_le<uint64_t>(rig_.at(kTables + 3 * kPageSize + (kData / kPageSize + 1) * 8), 0);
  reg(x86::kRbx) = kData + 0xff8;
  reg(x86::kRax) = 0;
  *rig_.at(kData + 0xff8) = std::byte{7};
  ASSERT_EQ(run(kFields), interp::Exit::kShutdown);
  EXPECT_EQ(reg(x86::kRax), 7u);
  EXPECT_EQ(rig_.state().cr2, kData + 0x1000);
}

TEST_F(SharedChecksRun, WatchesSeeWhatIsAccessedAndNothingBetween) {
  rig_.mmu->set_watches({{.first = kData + 2, .last = kData + 5, .reads = true, .writes = true}}, {});
  reg(x86::kRbx) = kData;
  // mov al, [rbx]; mov cl, [rbx + 8]; hlt
  ASSERT_EQ(run({0x8a, 0x03, 0x8a, 0x4b, 0x08, 0xf4}), interp::Exit::kHalted);
  EXPECT_FALSE(rig_.mmu->watch_hit().present);
}

// A group's address may come from a register that changes between two runs of the block.
TEST_F(SharedChecksRun, WhatAnEarlierRunHasLetThroughIsNotUsedAgain) {
  reg(x86::kRbx) = kData;
  ASSERT_EQ(run(kFields), interp::Exit::kHalted);
  for (const uint64_t at : {uint64_t{0}, uint64_t{0x800}, ~uint64_t{0}, uint64_t{1} << 63}) {
    reg(x86::kRbx) = at;
    EXPECT_EQ(run(kFields), interp::Exit::kShutdown) << at;
  }
}

// Host memory at an address that code can make by LEA, which a group's accesses must not take for their own.
class HostPage {
 public:
  static constexpr uint64_t kAt = 0x6000'0000, kPattern = 0xa5a5'a5a5'a5a5'a5a5;
  HostPage()
      : page_(mmap(reinterpret_cast<void*>(kAt), kPageSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)) {
    EXPECT_EQ(page_, reinterpret_cast<void*>(kAt));
    std::memset(page_, static_cast<int>(kPattern & 0xff), kPageSize);
  }
  ~HostPage() { munmap(page_, kPageSize); }
  HostPage(const HostPage&) = delete;
  HostPage& operator=(const HostPage&) = delete;
  bool intact() const {
    const auto* at = static_cast<const std::byte*>(page_);
    return std::all_of(at, at + kPageSize, [](std::byte b) { return b == std::byte{kPattern & 0xff}; });
  }

 private:
  void* page_;
};

TEST_F(SharedChecksRun, TheRegisterThatHoldsTheHostAddressIsFoundAgainAfterALea) {
  const HostPage host;
  reg(x86::kRbx) = kData;
  store_le<uint64_t>(rig_.at(kData + 8), 0x2222);
  // mov rax, [rbx]; lea cx, [rip + to the host's page]; mov rdx, [rbx + 8]; mov [rbx + 16], rdx; hlt
  const uint64_t distance = HostPage::kAt - (kText + 10);
  const auto byte = [&](unsigned n) { return static_cast<uint8_t>(distance >> 8 * n); };
  for (unsigned round = 0; round < 2; ++round) {  // the first finds a clean page
    reg(x86::kRdx) = 0;
    ASSERT_EQ(run({0x48, 0x8b, 0x03, 0x66, 0x8d, 0x0d, byte(0), byte(1), byte(2), byte(3), 0x48, 0x8b, 0x53,
                   0x08, 0x48, 0x89, 0x53, 0x10, 0xf4}),
              interp::Exit::kHalted);
    EXPECT_EQ(reg(x86::kRdx), 0x2222u);
    EXPECT_EQ(load_le<uint64_t>(rig_.at(kData + 16)), 0x2222u);
    EXPECT_TRUE(host.intact());
  }
  EXPECT_EQ(rig_.runner->statistics().host_faults, 0u);
}

}  // namespace
}  // namespace ostler::bt
