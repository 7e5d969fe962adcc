// The host's KVM as a whole: /dev/kvm, what it can do, and how fast it runs code. Made once for a machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "accel/kvm/request.h"
#include "base/fd.h"
#include "base/result.h"
#include "x86/feature.h"

namespace ostler::accel::kvm {

class System {
 public:
  // Errors, each with its cure: no device, no permission, a kernel that lacks something we need.
  static Result<std::shared_ptr<System>> open(const std::string& path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  int extension(int number) const;  // KVM_CAP_…: 0 when there is none
  size_t vcpu_mapping_size() const { return vcpu_mapping_size_; }
  // What a guest's CPUID may tell it has.
  const x86::FeatureSet& features() const { return features_; }

 private:
  System() = default;
  Fd fd_;
  size_t vcpu_mapping_size_ = 0;
  x86::FeatureSet features_;
};

// The features among `entries` (KVM_GET_SUPPORTED_CPUID), and those that we provide ourselves.
x86::FeatureSet features_of(std::span<const kvm_cpuid_entry2> entries);

// What this thread has run, its guest included: on a busy host a fast KVM must not look slow.
int64_t thread_clock_ns();
// Millions of instructions a second of a small counting guest: at most eight times two thousand of them, none
// begun after 1 ms, and whatever runs after 2 ms is interrupted. `clock` tells nanoseconds. Errors: the host
// refuses to run it.
Result<double> measure_speed(const System& system, const std::function<int64_t()>& clock = thread_clock_ns);
// What processors reach that run guest code themselves, by a factor of ten; one that emulates each
// instruction does not come near.
inline constexpr double kLeastSpeed = 30;

}  // namespace ostler::accel::kvm
