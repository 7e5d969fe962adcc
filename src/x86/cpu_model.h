// CPU models: what -cpu names, and what CPUID tells a guest about it (SDM 2A "CPUID"; AMD APM 3 App. E; the
// KVM leaves from the kernel's Documentation/virt/kvm/x86/cpuid.rst). Immutable after parse(); shared by all
// vCPUs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "x86/feature.h"
#include "x86/host_cpu.h"
#include "x86/state.h"
#include "x86/topology.h"

namespace ostler::x86 {

enum class Vendor : uint8_t { kIntel, kAmd };

// What CPUID tells about one vCPU and the machine around it.
struct VcpuInfo {
  uint32_t apic_id = 0;
  Topology topology = {};
  uint32_t kvm_features = 0;   // bits of leaf 0x40000001 EAX that the machine provides; 0: no KVM leaves
  uint64_t tsc_hz = 0;         // 0: not told
  uint64_t apic_timer_hz = 0;  // what the local APIC timer counts at, before its divider; 0: not told
};

struct ModelListing {
  std::string name, description;
};

class CpuModel {
 public:
  // "Haswell,+feat,-feat,feat=on|off,phys-bits=N,…". A wrong model or flag is an error that names the nearest
  // valid one. A flag that is known but not available is dropped with a warning, or an error with "enforce".
  static Result<CpuModel> parse(std::string_view text, const HostCpu& host = HostCpu::current());
  static std::span<const ModelListing> list();  // -cpu help
  static std::string help();                    // the same as text, with every flag's name

  // Drops what an accelerator cannot give the guest, and what depends on it. What the user asked for by name
  // is told in warnings(); with "enforce" it is an error. `who`: "this host's KVM".
  Result<void> restrict_to(const FeatureSet& available, std::string_view who);

  const std::string& name() const { return name_; }
  Vendor vendor() const { return vendor_; }
  bool amd() const { return vendor_ == Vendor::kAmd; }
  bool has(Feature feature) const { return features_.has(feature); }
  const FeatureSet& features() const { return features_; }
  unsigned family() const { return family_; }
  unsigned model() const { return model_; }
  unsigned stepping() const { return stepping_; }
  unsigned physical_bits() const { return physical_bits_; }
  unsigned linear_bits() const { return has(Feature::kLa57) ? 57 : has(Feature::kLm) ? 48 : 32; }
  // Bits that XSETBV may set, and CR4 bits that MOV may set.
  uint64_t xcr0_supported() const;
  uint64_t cr4_supported() const;
  bool long_mode() const { return has(Feature::kLm); }
  // Whole sentences, for log::warning.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // As executed by the guest in state `state`: OSXSAVE and the size of the XSAVE area follow CR4 and XCR0.
  CpuidResult cpuid(uint32_t leaf, uint32_t subleaf, const CpuState& state, const VcpuInfo& vcpu) const;
  // CPUID.1:EAX, also what RESET leaves in EDX.
  uint32_t signature() const;

 private:
  friend class CpuOptions;  // -cpu model,…
  CpuModel() = default;
  uint32_t highest_leaf(const VcpuInfo& vcpu) const;
  uint32_t feature_bits(uint32_t leaf, uint32_t subleaf, CpuidRegister reg) const;
  CpuidResult basic_leaf(uint32_t leaf, uint32_t subleaf, const CpuState& state, const VcpuInfo& vcpu) const;
  CpuidResult kvm_leaf(uint32_t leaf, const VcpuInfo& vcpu) const;
  CpuidResult extended_leaf(uint32_t leaf, uint32_t subleaf, const CpuState& state,
                            const VcpuInfo& vcpu) const;
  Result<void> apply_options(std::string_view list, const HostCpu& host);
  void settle(const HostCpu& host, const FeatureSet& quiet);
  void drop_dependent();

  std::string name_;
  std::string brand_;
  std::string vendor_text_;  // 12 characters
  Vendor vendor_ = Vendor::kIntel;
  unsigned family_ = 6, model_ = 0, stepping_ = 0;
  unsigned physical_bits_ = 40;
  uint32_t basic_max_ = 0xd;
  bool basic_max_given_ = false;          // then it is all, even with a frequency to tell
  std::optional<uint32_t> extended_max_;  // 0: no such leaves; nothing: as many as say something
  uint32_t extended_least_ = 0;           // and at least so many
  bool l3_cache_ = true, topology_leaf_ = true, frequency_leaf_ = true;
  bool kvm_ = true;
  bool enforce_ = false;
  FeatureSet features_;
  FeatureSet requested_;  // by the user, one by one
  std::vector<std::string> warnings_;
};

// The size of an XSAVE area in standard form for the components in `xcr0`, in bytes (SDM 1 §13.4).
uint32_t xsave_area_size(uint64_t xcr0);

}  // namespace ostler::x86
