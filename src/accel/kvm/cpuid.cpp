#include "accel/kvm/cpuid.h"

#include <algorithm>

namespace ostler::accel::kvm {
namespace {

constexpr uint32_t kHypervisorLeaf = 0x40000000, kExtendedLeaf = 0x80000000;
constexpr uint32_t kMostLeaves = 0x40;  // of one range

// How many subleaves are told apart; 0: ECX does not matter.
uint32_t subleaves_of(uint32_t leaf) {
  switch (leaf) {
    case 0x4:
    case 0x8000001d:
      return 5;  // the last ends the list
    case 0x7:
    case 0xb:
    case 0xd:
      return 3;
    case 0x1f:
      return 4;
    default:
      return 0;
  }
}

}  // namespace

std::vector<kvm_cpuid_entry2> cpuid_entries(const x86::CpuModel& model, const x86::VcpuInfo& info) {
  // Software in 64-bit mode sees all there is (SYSCALL on Intel's models).
  x86::CpuState state;
  state.msr.efer = x86::efer::kLma | x86::efer::kLme;
  state.seg[x86::kCs].attributes = x86::Segment::kLong;
  state.xcr0 = 1;
  std::vector<kvm_cpuid_entry2> out;
  const auto add = [&](uint32_t leaf, uint32_t subleaf, bool indexed) {
    const x86::CpuidResult result = model.cpuid(leaf, subleaf, state, info);
    kvm_cpuid_entry2 entry{};
    entry.function = leaf;
    entry.index = subleaf;
    entry.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0u;
    entry.eax = result.eax;
    entry.ebx = result.ebx;
    entry.ecx = result.ecx;
    entry.edx = result.edx;
    out.push_back(entry);
  };
  const auto add_range = [&](uint32_t first) {
    const uint32_t last = model.cpuid(first, 0, state, info).eax;
    if (last < first) return;
    for (uint32_t leaf = first; leaf <= std::min(last, first + kMostLeaves); ++leaf) {
      const uint32_t subleaves = subleaves_of(leaf);
      if (subleaves == 0) add(leaf, 0, false);
      for (uint32_t i = 0; i < subleaves; ++i) add(leaf, i, true);
    }
  };
  add_range(0);
  if (model.has(x86::Feature::kHypervisor)) add_range(kHypervisorLeaf);
  add_range(kExtendedLeaf);
  return out;
}

}  // namespace ostler::accel::kvm
