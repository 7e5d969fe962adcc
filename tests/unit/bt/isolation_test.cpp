// docs/bt/isolation.md: whatever bytes a guest executes, in whatever mode, nothing of the host changes but
// guest RAM, the vCPU's own state, and what the translator itself writes into its tables and its cache.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

// Pages next to a mapping that were free are filled with a pattern; those that are taken belong to somebody
// who would crash.
class Fence {
 public:
  void around(const void* start, size_t bytes) {
    auto* from = static_cast<std::byte*>(const_cast<void*>(start));
    add(from - kBytes);
    add(from + bytes);
  }
  ~Fence() {
    for (std::byte* page : pages_) munmap(page, kBytes);
  }
  bool intact() const {
    for (const std::byte* page : pages_)
      for (size_t i = 0; i < kBytes; ++i)
        if (page[i] != kPattern) return false;
    return true;
  }
  size_t pages() const { return pages_.size(); }

 private:
  static constexpr size_t kBytes = 4 * kPageSize;
  static constexpr std::byte kPattern{0xa5};
  void add(std::byte* at) {
    void* page =
        mmap(at, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (page == MAP_FAILED) return;
    std::memset(page, static_cast<int>(kPattern), kBytes);
    pages_.push_back(static_cast<std::byte*>(page));
  }
  std::vector<std::byte*> pages_;
};

struct Mode {
  const char* name;
  unsigned bits, cpl;
  bool paging;
  bool compatibility = false;  // 32-bit code in long mode
};

// What may not change: where the window's parts that only the translator's C++ writes point to, and its
// constants.
struct Kept {
  explicit Kept(const Hot& hot)
      : runner(hot.runner),
        slot_mask(hot.slot_mask),
        page_mask(hot.page_mask),
        default_mxcsr(hot.default_mxcsr) {}
  friend bool operator==(const Kept&, const Kept&) = default;
  const Runner* runner;
  uint64_t slot_mask, page_mask;
  uint32_t default_mxcsr;
};

class Isolation : public ::testing::TestWithParam<Mode> {
 protected:
  void enter(Rig& rig) {
    using namespace x86;
    const Mode& mode = GetParam();
    rig.start(mode.cpl);
    CpuState& s = rig.state();
    const uint32_t code = mode.bits == 64 ? 0xa09b : mode.bits == 32 ? 0xc09b : 0x809b;
    s.seg[kCs].attributes = code | mode.cpl << 5;
    if (mode.bits != 64 && !mode.compatibility) {
      s.msr.efer = 0;
      s.cr4 = cr4::kOsfxsr;
      if (mode.paging) {
        s.cr4 |= cr4::kPae;
        s.pdpte[0] = (kTables + 2 * kPageSize) | 1;
      }
      if (mode.bits == 16)
        for (auto& segment : s.seg) segment.attributes &= ~(1u << 14);
    }
    if (!mode.paging) s.cr0 &= ~cr0::kPg;
    rig.interpreter->state_changed();
  }
  static constexpr unsigned kRounds = 400;
};

TEST_P(Isolation, RandomBytesLeaveTheHostAlone) {
  std::mt19937_64 random(GetParam().bits * 8 + GetParam().cpl * 2 + GetParam().paging);
  Rig rig({.cache_bytes = size_t{4} << 20, .count = true, .tsc = true});
  Fence fence;
  fence.around(rig.at(0), kRam);
  fence.around(&rig.window->hot(), Window::kSize);
  fence.around(rig.shared->cache->executable(0), size_t{4} << 20);
  fence.around(rig.shared->cache->writable(0), size_t{4} << 20);
  const Kept kept(rig.window->hot());
  const auto& routines = rig.shared->routines;
  const size_t routine_bytes = 4096;
  std::vector<uint8_t> before(rig.shared->cache->executable(0),
                              rig.shared->cache->executable(0) + routine_bytes);
  ASSERT_NE(routines.enter + routines.lookup[0], 0u);

  // Half of what runs are instructions that are likely to reach memory, through registers that point
  // anywhere.
  static constexpr std::array<std::array<uint8_t, 4>, 18> kLikely = {
      {{0x48, 0x89, 0x03, 0x90},    // mov [rbx], rax
       {0x48, 0x8b, 0x07, 0x90},    // mov rax, [rdi]
       {0x50, 0x58, 0x53, 0x5b},    // push, pop
       {0x48, 0x89, 0x44, 0x24},    // mov [rsp + d], rax
       {0x48, 0x89, 0xdc, 0x50},    // mov rsp, rbx; push
       {0x65, 0x48, 0x89, 0x03},    // mov gs:[rbx], rax
       {0xff, 0xd3, 0xc3, 0xc3},    // call rbx; ret
       {0xe8, 0x02, 0x00, 0x00},    // call
       {0xf0, 0x48, 0x01, 0x06},    // lock add [rsi], rax
       {0x0f, 0x11, 0x03, 0x90},    // movups [rbx], xmm0
       {0x67, 0x89, 0x03, 0x90},    // mov [ebx], eax
       {0x0f, 0xa2, 0x50, 0x90},    // cpuid; push
       {0x0f, 0x05, 0x50, 0x90},    // syscall; push
       {0x50, 0x58, 0x0f, 0x05},    // push; pop; syscall
       {0x48, 0x0f, 0x07, 0x50},    // sysret; push
       {0xf3, 0x48, 0xa5, 0x90},    // rep movsq
       {0xf3, 0xaa, 0xfd, 0x90},    // rep stosb; std
       {0x48, 0x0f, 0xa3, 0x03}}};  // bt [rbx], rax
  static constexpr std::array<std::array<uint8_t, 4>, 18> kLikely32 = {
      {{0x89, 0x03, 0x8b, 0x07},    // mov [ebx], eax; mov eax, [edi]
       {0x50, 0x58, 0x53, 0x5b},    // push, pop
       {0x89, 0x44, 0x24, 0x7c},    // mov [esp + 124], eax
       {0x89, 0xdc, 0x50, 0x58},    // mov esp, ebx; push; pop
       {0x81, 0xec, 0x04, 0x02},    // sub esp, …
       {0x81, 0xc4, 0x04, 0x02},    // add esp, …
       {0x8d, 0x64, 0x24, 0x80},    // lea esp, [esp - 128]
       {0x65, 0x89, 0x03, 0x40},    // mov gs:[ebx], eax; inc eax
       {0x64, 0x8b, 0x07, 0x4c},    // mov eax, fs:[edi]; dec esp
       {0xff, 0xd3, 0xc3, 0xc3},    // call ebx; ret
       {0xe8, 0x02, 0x00, 0x00},    // call
       {0xf0, 0x01, 0x06, 0xc9},    // lock add [esi], eax; leave
       {0x0f, 0x11, 0x03, 0x90},    // movups [ebx], xmm0
       {0x67, 0x89, 0x03, 0x90},    // mov [bp + di], eax
       {0xa3, 0x00, 0x10, 0x00},    // mov [address], eax
       {0x0f, 0xa3, 0x03, 0x61},    // bt [ebx], eax; popa
       {0xf3, 0xa5, 0xf3, 0xaa},    // rep movsd; rep stosb
       {0xa5, 0xaa, 0x0f, 0xa2}}};  // movsd; stosb; cpuid
  const auto& likely = GetParam().bits == 32 ? kLikely32 : kLikely;
  // Without paging a repeated string instruction takes all of 4 GiB before something stops it.
  const size_t count = GetParam().paging ? likely.size() : likely.size() - (GetParam().bits == 32 ? 2 : 6);
  std::vector<std::byte> bytes(2 * kPageSize);
  for (unsigned round = 0; round < kRounds; ++round) {
    rig.map();
    for (size_t i = 0; i < bytes.size(); i += 4) {
      uint32_t word = static_cast<uint32_t>(random());
      if (random() % 2 == 0) std::memcpy(&word, likely[random() % count].data(), 4);
      std::memcpy(&bytes[i], &word, 4);
    }
    std::memcpy(rig.at(kText), bytes.data(), bytes.size());
    rig.space.ram_written(*rig.block, kText, kPageSize);
    rig.space.ram_written(*rig.block, kText + kPageSize, kPageSize);
    enter(rig);
    x86::CpuState& s = rig.state();
    const std::array<uint64_t, 9> pointers = {kText,
                                              kStackTop,
                                              0x100,
                                              kRam - 4,
                                              kRam,
                                              reinterpret_cast<uint64_t>(rig.at(0)),
                                              reinterpret_cast<uint64_t>(&rig.window->hot()),
                                              reinterpret_cast<uint64_t>(rig.shared->cache->writable(0)),
                                              uint64_t{1} << 63};
    for (uint64_t& reg : s.gpr)
      reg = random() % 4 == 0 ? random() : pointers[random() % pointers.size()] + random() % 64;
    s.msr.efer |= GetParam().bits == 64 && GetParam().cpl == 0 ? x86::efer::kSce : 0;
    s.msr.star = uint64_t{8} << 32 | uint64_t{16 | 3} << 48;
    s.msr.lstar = kText + random() % kPageSize;
    s.gpr[x86::kRsp] = random() % 2 == 0 ? kStackTop : s.gpr[x86::kRsp];
    s.seg[x86::kGs].base = random() % 2 == 0 ? 0 : pointers[random() % pointers.size()];
    if (GetParam().bits != 64) s.seg[x86::kGs].base &= 0xffff'ffff;
    for (unsigned entry = 0; entry < 4; ++entry) {
      s.rip = kText + random() % (bytes.size() - 64);
      s.activity = x86::Activity::kRunning;
      rig.interpreter->run(200);
    }
    ASSERT_TRUE(fence.intact()) << "round " << round;
    ASSERT_TRUE(kept == Kept(rig.window->hot())) << "round " << round;
    // No page table leads to page 0, and user code cannot make one.
    if (GetParam().paging && GetParam().cpl == 3) {
      ASSERT_TRUE(std::all_of(rig.at(0), rig.at(kPageSize), [](std::byte b) { return b == std::byte{}; }))
          << round;
    }
  }
  EXPECT_EQ(std::memcmp(before.data(), rig.shared->cache->executable(0), routine_bytes), 0);
  if (GetParam().bits != 16) {
    EXPECT_GT(rig.runner->statistics().entries, 100u);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, Isolation,
    ::testing::Values(Mode{"real_address", 16, 0, false}, Mode{"protected_16", 16, 3, false},
                      Mode{"protected_32", 32, 0, false}, Mode{"protected_32_user", 32, 3, false},
                      Mode{"protected_32_paged", 32, 3, true}, Mode{"compatibility", 32, 0, true, true},
                      Mode{"compatibility_user", 32, 3, true, true}, Mode{"long", 64, 0, true},
                      Mode{"long_user", 64, 3, true}),
    [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace ostler::bt
