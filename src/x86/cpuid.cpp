// The CPUID leaves of a model, one function per range.
#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "x86/cpu_model.h"

namespace ostler::x86 {
namespace {

using F = Feature;
using R = CpuidRegister;

constexpr uint32_t kKvmBase = 0x40000000;
constexpr uint32_t kTopologyV1 = 0xb, kTopologyV2 = 0x1f;
constexpr uint32_t kAvxOffset = 576, kAvxSize = 256;  // of the YMM component in the standard XSAVE form

// One cache for leaves 4 and 0x8000001d: type 1 data, 2 instruction, 3 unified; 64-byte lines.
struct Cache {
  uint32_t type, level, ways, kib;
  bool per_die;
};
constexpr Cache kCaches[] = {
    {1, 1, 8, 32, false}, {2, 1, 8, 32, false}, {3, 2, 8, 512, false}, {3, 3, 16, 16384, true}};

CpuidResult cache_leaf(uint32_t index, const VcpuInfo& vcpu, bool intel, bool l3) {
  if (index >= std::size(kCaches) || (!l3 && kCaches[index].level == 3)) return {};
  const Cache& cache = kCaches[index];
  const Topology& topology = vcpu.topology;
  const uint32_t sharing = 1u << (cache.per_die ? topology.die_shift() : topology.core_shift());
  CpuidResult r;
  r.eax = cache.type | cache.level << 5 | 1u << 8 /* self-initializing */ | (sharing - 1) << 14;
  if (intel) {
    const unsigned core_bits = topology.socket_shift() - topology.core_shift();
    r.eax |= ((1u << core_bits) - 1) << 26;
  }
  r.ebx = (64 - 1) | (cache.ways - 1) << 22;
  r.ecx = cache.kib * 1024 / (64 * cache.ways) - 1;  // sets
  return r;
}

// Extended topology (SDM 3A §10.9.1), leaf 0xb, and leaf 0x1f, which knows dies. Each level tells how far the
// APIC ID is shifted to leave the next level's number, and how many logical processors it has.
CpuidResult topology_leaf(uint32_t leaf, uint32_t level, const VcpuInfo& vcpu) {
  constexpr uint32_t kSmt = 1, kCore = 2, kDie = 5;
  const Topology& topology = vcpu.topology;
  const bool dies = leaf == kTopologyV2;
  CpuidResult r;
  r.ecx = level & 0xff;
  r.edx = vcpu.apic_id;
  if (level == 0) {
    r.eax = topology.core_shift();
    r.ebx = topology.threads;
    r.ecx |= kSmt << 8;
  } else if (level == 1) {
    r.eax = dies ? topology.die_shift() : topology.socket_shift();
    r.ebx = dies ? topology.logical_per_die() : topology.logical_per_socket();
    r.ecx |= kCore << 8;
  } else if (level == 2 && dies) {
    r.eax = topology.socket_shift();
    r.ebx = topology.logical_per_socket();
    r.ecx |= kDie << 8;
  }
  return r;
}

// TSC = crystal * ebx / eax. The crystal is also what guests take for the local APIC timer's clock, so it
// must be that one, and Linux multiplies crystal_khz * ebx in 32 bits: the ratio is the best fraction that
// fits.
CpuidResult tsc_leaf(const VcpuInfo& vcpu) {
  if (vcpu.tsc_hz == 0 || vcpu.apic_timer_hz < 1000 || vcpu.apic_timer_hz > ~uint32_t{0}) return {};
  const uint64_t most = ~uint32_t{0} / (vcpu.apic_timer_hz / 1000);
  uint64_t n = vcpu.tsc_hz, d = vcpu.apic_timer_hz;
  uint64_t h0 = 0, h1 = 1, k0 = 1, k1 = 0;  // convergents of the continued fraction
  while (d != 0) {
    const uint64_t a = n / d;
    const uint64_t h2 = a * h1 + h0, k2 = a * k1 + k0;
    if (h2 > most || k2 > ~uint32_t{0}) break;
    h0 = h1, h1 = h2, k0 = k1, k1 = k2;
    const uint64_t rest = n % d;
    n = d, d = rest;
  }
  if (h1 == 0 || k1 == 0) return {};
  return {static_cast<uint32_t>(k1), static_cast<uint32_t>(h1), static_cast<uint32_t>(vcpu.apic_timer_hz), 0};
}

CpuidResult text_leaf(const char* text16) {
  CpuidResult r;
  std::memcpy(&r, text16, 16);
  return r;
}

}  // namespace

uint32_t xsave_area_size(uint64_t xcr0) {
  return (xcr0 & 4) != 0 ? kAvxOffset + kAvxSize : kAvxOffset;
}

uint32_t CpuModel::signature() const {
  const uint32_t base_family = std::min(family_, 15u);
  const uint32_t extended_family = family_ - base_family;
  return stepping_ | (model_ & 15) << 4 | base_family << 8 | (model_ >> 4) << 16 | extended_family << 20;
}

CpuidResult CpuModel::cpuid(uint32_t leaf, uint32_t subleaf, const CpuState& state,
                            const VcpuInfo& vcpu) const {
  if (leaf >= 0x80000000 && leaf < 0x80000100) return extended_leaf(leaf, subleaf, state, vcpu);
  if (leaf >= kKvmBase && leaf < kKvmBase + 0x10000000 && has(F::kHypervisor)) {
    // Software looks for hypervisors at every 0x100; ours is only at the first.
    return leaf < kKvmBase + 0x100 ? kvm_leaf(leaf, vcpu) : CpuidResult{};
  }
  return basic_leaf(leaf, subleaf, state, vcpu);
}

uint32_t CpuModel::highest_leaf(const VcpuInfo& vcpu) const {
  uint32_t highest = basic_max_;
  if (amd() || basic_max_given_) return highest;
  if (vcpu.tsc_hz != 0) highest = std::max(highest, 0x16u);
  if (vcpu.topology.dies > 1) highest = std::max(highest, kTopologyV2);
  return highest;
}

CpuidResult CpuModel::basic_leaf(uint32_t leaf, uint32_t subleaf, const CpuState& state,
                                 const VcpuInfo& vcpu) const {
  const uint32_t highest = highest_leaf(vcpu);
  if (leaf > highest) {
    if (amd()) return {};
    leaf = highest;  // SDM: beyond the highest leaf, its data
  }
  switch (leaf) {
    case 0: {
      const char* name = vendor_text_.c_str();
      CpuidResult r;
      r.eax = highest;
      std::memcpy(&r.ebx, name, 4);
      std::memcpy(&r.edx, name + 4, 4);
      std::memcpy(&r.ecx, name + 8, 4);
      return r;
    }
    case 1: {
      CpuidResult r;
      const uint32_t logical = vcpu.topology.logical_per_socket();
      const uint32_t ids = 1u << vcpu.topology.socket_shift();
      r.eax = signature();
      r.ebx = 8u << 8 /* CLFLUSH line, in 8 bytes */ | (vcpu.apic_id & 0xff) << 24;
      r.ecx = feature_bits(1, 0, R::kEcx);
      r.edx = feature_bits(1, 0, R::kEdx);
      if (logical > 1) {
        r.ebx |= std::min(ids, 255u) << 16;
        r.edx |= 1u << 28;  // HTT
      }
      if ((state.cr4 & cr4::kOsxsave) != 0) r.ecx |= 1u << 27;
      return r;
    }
    case 2:
      if (amd()) return {};
      return {0x76036301, 0x00f0b5ff, 0, 0x00c30000};  // "ask leaf 4", and a TLB like the real ones
    case 4:
      return amd() ? CpuidResult{} : cache_leaf(subleaf, vcpu, true, l3_cache_);
    case 6:
      return {feature_bits(6, 0, R::kEax), 0, 0, 0};
    case 7:
      if (subleaf == 0)
        return {2, feature_bits(7, 0, R::kEbx), feature_bits(7, 0, R::kEcx), feature_bits(7, 0, R::kEdx)};
      if (subleaf == 1) return {feature_bits(7, 1, R::kEax), 0, 0, 0};
      return subleaf == 2 ? CpuidResult{0, 0, 0, feature_bits(7, 2, R::kEdx)} : CpuidResult{};
    case kTopologyV1:
    case kTopologyV2:
      return topology_leaf_ ? topology_leaf(leaf, subleaf, vcpu) : CpuidResult{};
    case 0xd: {
      const uint64_t supported = xcr0_supported();
      if (supported == 0) return {};
      if (subleaf == 0)
        return {static_cast<uint32_t>(supported), xsave_area_size(state.xcr0), xsave_area_size(supported), 0};
      // The compacted form has the same size: YMM directly follows the header.
      if (subleaf == 1)
        return {feature_bits(0xd, 1, R::kEax),
                has(F::kXsavec) ? xsave_area_size(state.xcr0 | state.msr.xss) : 0, 0, 0};
      if (subleaf == 2 && (supported & 4) != 0) return {kAvxSize, kAvxOffset, 0, 0};
      return {};
    }
    case 0x15:
      return amd() ? CpuidResult{} : tsc_leaf(vcpu);
    case 0x16: {
      const uint32_t mhz = static_cast<uint32_t>(vcpu.tsc_hz / 1'000'000);
      return amd() || mhz == 0 ? CpuidResult{} : CpuidResult{mhz & 0xffff, mhz & 0xffff, 100, 0};
    }
    default:
      return {};
  }
}

CpuidResult CpuModel::kvm_leaf(uint32_t leaf, const VcpuInfo& vcpu) const {
  if (!kvm_ || vcpu.kvm_features == 0) return {};
  switch (leaf) {
    case kKvmBase:
      return {kKvmBase + (frequency_leaf_ ? 0x10 : 1), 0x4b4d564b, 0x564b4d56,
              0x0000004d};  // "KVMKVMKVM\0\0\0"
    case kKvmBase + 1:
      return {feature_bits(kKvmBase + 1, 0, R::kEax) & vcpu.kvm_features, 0, 0,
              feature_bits(kKvmBase + 1, 0, R::kEdx)};
    case kKvmBase + 0x10:
      if (!frequency_leaf_) return {};
      return {static_cast<uint32_t>(vcpu.tsc_hz / 1000), static_cast<uint32_t>(vcpu.apic_timer_hz / 1000), 0,
              0};
    default:
      return {};
  }
}

CpuidResult CpuModel::extended_leaf(uint32_t leaf, uint32_t subleaf, const CpuState& state,
                                    const VcpuInfo& vcpu) const {
  const bool topology = amd() && has(F::kTopoext);
  const uint32_t logical = vcpu.topology.logical_per_socket();
  const uint32_t highest =
      std::max(extended_max_.value_or(topology ? 0x8000001e : 0x80000008), extended_least_);
  if (leaf > highest) return amd() ? CpuidResult{} : basic_leaf(highest_leaf(vcpu), 0, state, vcpu);
  switch (leaf) {
    case 0x80000000: {
      CpuidResult r;
      r.eax = highest;
      if (amd()) {
        const CpuidResult zero = basic_leaf(0, 0, state, vcpu);
        r.ebx = zero.ebx, r.ecx = zero.ecx, r.edx = zero.edx;
      }
      return r;
    }
    case 0x80000001: {
      CpuidResult r;
      r.eax = amd() ? signature() : 0;
      r.ecx = feature_bits(leaf, 0, R::kEcx);
      r.edx = feature_bits(leaf, 0, R::kEdx);
      // Intel has SYSCALL in 64-bit mode only and says so (SDM 2A Table 3-8).
      if (!amd() && !state.code64()) r.edx &= ~(1u << 11);
      // AMD repeats the classic flags of leaf 1 (APM 3, Fn8000_0001_EDX).
      if (amd()) r.edx |= feature_bits(1, 0, R::kEdx) & 0x0183f3ff;
      if (amd() && logical > 1) r.ecx |= 1u << 1;  // CmpLegacy
      return r;
    }
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
      char text[48] = {};
      std::memcpy(text, brand_.data(), std::min<size_t>(brand_.size(), 47));
      return text_leaf(text + 16 * (leaf - 0x80000002));
    }
    case 0x80000005:  // L1 TLBs and caches: size in KiB, ways, lines per tag, line size
      return amd() ? CpuidResult{0x01ff01ff, 0x01ff01ff, 32u << 24 | 8 << 16 | 1 << 8 | 64,
                                 32u << 24 | 8 << 16 | 1 << 8 | 64}
                   : CpuidResult{};
    case 0x80000006:  // L2 512 KiB 8-way (code 6), L3 16 MiB 16-way (code 8) in 512 KiB units
      return {0, amd() ? 0x42004200u : 0, 512u << 16 | 6 << 12 | 1 << 8 | 64,
              amd() && l3_cache_ ? 32u << 18 | 8 << 12 | 1 << 8 | 64 : 0};
    case 0x80000007:
      return {0, 0, 0, feature_bits(leaf, 0, R::kEdx)};
    case 0x80000008: {
      CpuidResult r;
      r.eax = physical_bits_ | linear_bits() << 8;
      r.ebx = feature_bits(leaf, 0, R::kEbx);
      if (amd() && logical > 1) r.ecx = (logical - 1) | vcpu.topology.socket_shift() << 12;
      return r;
    }
    case 0x8000001d:
      return topology ? cache_leaf(subleaf, vcpu, false, l3_cache_) : CpuidResult{};
    case 0x8000001e:  // a node of the processor is a die
      if (!topology) return {};
      return {vcpu.apic_id,
              ((vcpu.apic_id >> vcpu.topology.core_shift()) & 0xff) | (vcpu.topology.threads - 1) << 8,
              ((vcpu.apic_id >> vcpu.topology.die_shift()) & 0xff) | (vcpu.topology.dies - 1) << 8, 0};
    default:
      return {};
  }
}

}  // namespace ostler::x86
