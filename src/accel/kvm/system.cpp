#include "accel/kvm/system.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "accel/kvm/refusal.h"

namespace ostler::accel::kvm {
namespace {

using F = x86::Feature;

constexpr int kApiVersion = 12;
constexpr size_t kMostCpuidEntries = 256;  // of the kernel's own

struct Needed {
  int number;
  std::string_view name;
};
constexpr Needed kNeeded[] = {{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
                              {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
                              {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
                              {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
                              {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
                              {KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG"},
                              {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
                              {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
                              {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"},
                              {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"},
                              {KVM_CAP_SREGS2, "KVM_CAP_SREGS2"}};

uint32_t of_register(const kvm_cpuid_entry2& entry, x86::CpuidRegister reg) {
  switch (reg) {
    case x86::CpuidRegister::kEax:
      return entry.eax;
    case x86::CpuidRegister::kEbx:
      return entry.ebx;
    case x86::CpuidRegister::kEcx:
      return entry.ecx;
    default:
      return entry.edx;
  }
}

}  // namespace

x86::FeatureSet features_of(std::span<const kvm_cpuid_entry2> entries) {
  // The local APIC and its timer are our own devices; topology and hints are a matter of what CPUID tells.
  x86::FeatureSet features{F::kX2apic,  F::kTscDeadline, F::kHypervisor,      F::kHt,
                           F::kTopoext, F::kApic,        F::kKvmHintDedicated};
  for (size_t i = 0; i < x86::kFeatureCount; ++i) {
    const auto feature = static_cast<F>(i);
    const x86::FeatureInfo& info = x86::feature_info(feature);
    // Paravirtual services are offered by the machine, which answers their registers.
    if (info.leaf >= 0x40000000 && info.leaf < 0x80000000) features.set(feature);
    for (const kvm_cpuid_entry2& entry : entries)
      if (entry.function == info.leaf && entry.index == info.subleaf &&
          (of_register(entry, info.reg) >> info.bit & 1) != 0)
        features.set(feature);
  }
  return features;
}

int System::extension(int number) const {
  return std::max(0, call(fd_.get(), kCheckExtension, static_cast<unsigned long>(number)));
}

Result<std::shared_ptr<System>> System::open(const std::string& path) {
  std::shared_ptr<System> system(new System);
  system->fd_.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!system->fd_) return cannot_open(path, errno);
  const int fd = system->fd();
  const int version = call(fd, kGetApiVersion);
  if (version < 0)
    return Error(ErrorKind::kUnsupported,
                 path + " is not KVM: name no other file, or load the kernel's module", -version);
  if (version != kApiVersion)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{} has API version {}, and {} is needed: run Linux 5.16 or newer", path,
                             version, kApiVersion));
  for (const Needed& needed : kNeeded)
    if (system->extension(needed.number) == 0)
      return Error(ErrorKind::kUnsupported,
                   fmt::format("{} lacks {}: run Linux 5.16 or newer", path, needed.name));
  const int size = call(fd, kGetVcpuMmapSize);
  if (size < static_cast<int>(sizeof(kvm_run)))
    return refusal("KVM_GET_VCPU_MMAP_SIZE", size < 0 ? size : -EINVAL);
  system->vcpu_mapping_size_ = static_cast<size_t>(size);
  CpuidList cpuid(kMostCpuidEntries);
  if (const int done = call(fd, kGetSupportedCpuid, cpuid.data()); done < 0)
    return refusal("KVM_GET_SUPPORTED_CPUID", done);
  system->features_ = features_of({cpuid.entries(), cpuid.count()});
  return system;
}

}  // namespace ostler::accel::kvm
