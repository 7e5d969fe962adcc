// The XSAVE area that KVM_GET_XSAVE and KVM_SET_XSAVE pass (SDM 1 §13.4, tables 10-2 and 13-1).
#include <algorithm>
#include <cstring>

#include "accel/kvm/registers.h"

namespace ostler::accel::kvm {
namespace {

constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4;
constexpr size_t kMxcsr = 24, kMxcsrMask = 28, kSt = 32, kXmm = 160, kHeader = 512, kYmmHigh = 576;

}  // namespace

void xsave_to_cpu(std::span<const std::byte, kXsaveSize> area, x86::CpuState& cpu) {
  uint64_t present = 0;
  std::memcpy(&present, area.data() + kHeader, 8);
  const uint32_t mxcsr_mask = cpu.fx.mxcsr_mask;
  // A component that is not there is in its initial state.
  x86::FxState fx;
  if ((present & kX87) != 0) {
    std::memcpy(static_cast<void*>(&fx), area.data(), kMxcsr);
    std::memcpy(fx.st, area.data() + kSt, sizeof fx.st);
  }
  if ((present & (kSse | kAvx)) != 0) std::memcpy(&fx.mxcsr, area.data() + kMxcsr, 4);
  fx.mxcsr_mask = mxcsr_mask;
  cpu.fx = fx;
  std::memset(cpu.vec, 0, sizeof cpu.vec);
  for (unsigned i = 0; i < 16; ++i) {
    if ((present & kSse) != 0) std::memcpy(cpu.vec[i], area.data() + kXmm + 16 * i, 16);
    if ((present & kAvx) != 0) std::memcpy(cpu.vec[i] + 16, area.data() + kYmmHigh + 16 * i, 16);
  }
}

void xsave_from_cpu(const x86::CpuState& cpu, uint64_t components, std::span<std::byte, kXsaveSize> area) {
  std::fill(area.begin(), area.end(), std::byte{});
  const uint64_t present = (kX87 | kSse | kAvx) & components;
  std::memcpy(area.data() + kHeader, &present, 8);
  std::memcpy(area.data(), &cpu.fx, kXmm);
  // The kernel refuses a mask of another processor; 0 stands for the usual one.
  std::memset(area.data() + kMxcsrMask, 0, 4);
  for (unsigned i = 0; i < 16; ++i) {
    std::memcpy(area.data() + kXmm + 16 * i, cpu.vec[i], 16);
    std::memcpy(area.data() + kYmmHigh + 16 * i, cpu.vec[i] + 16, 16);
  }
}

}  // namespace ostler::accel::kvm
