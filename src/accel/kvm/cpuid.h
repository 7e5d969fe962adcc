// CPUID of a vCPU as KVM wants it: every leaf and subleaf of the model, spelt out. Any thread.
#pragma once

#include <vector>

#include "accel/kvm/request.h"
#include "x86/cpu_model.h"

namespace ostler::accel::kvm {

// The model has only features that KVM supports (CpuModel::restrict_to). What follows CR4 and XCR0 is kept up
// to date by KVM itself.
std::vector<kvm_cpuid_entry2> cpuid_entries(const x86::CpuModel& model, const x86::VcpuInfo& info);

}  // namespace ostler::accel::kvm
