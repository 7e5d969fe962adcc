// A /dev/kvm that exists in this process only: it answers every call, refuses those that it is told to, and
// runs what a test scripts in place of guest code.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "accel/kvm/intercept.h"
#include "accel/kvm/mapping.h"
#include "accel/kvm/system.h"

namespace ostler::accel::kvm {

class FakeKvm {
 public:
  FakeKvm() {
    set_intercept([this](int fd, const Request& request, unsigned long argument) {
      return answer(fd, request, argument);
    });
  }
  ~FakeKvm() { set_intercept({}); }
  FakeKvm(const FakeKvm&) = delete;
  FakeKvm& operator=(const FakeKvm&) = delete;

  Result<std::shared_ptr<System>> open() { return System::open("/dev/null"); }

  std::map<std::string, int> refused;       // by the call's name: errno
  std::function<int(kvm_run&)> on_run;      // KVM_RUN; its result
  std::vector<std::string> calls;           // names, in their order
  std::map<unsigned long, int> extensions;  // others are there
  std::map<unsigned, uint64_t> enabled;     // by the capability: its first argument
  std::function<int()> on_reset_rings;      // KVM_RESET_DIRTY_RINGS; its result
  // Of the vCPU made last.
  kvm_dirty_gfn* dirty_ring() { return reinterpret_cast<kvm_dirty_gfn*>(run_.data() + kRingAt); }
  unsigned count(const std::string& name) const {
    return static_cast<unsigned>(std::count(calls.begin(), calls.end(), name));
  }

 private:
  static constexpr int kMappingSize = 0x3000, kRingAt = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;
  static constexpr size_t kWholeSize = kRingAt + 65536 * sizeof(kvm_dirty_gfn);

  std::optional<int> answer(int, const Request& request, unsigned long argument) {
    const std::string name(request.name);
    calls.push_back(name);
    if (const auto found = refused.find(name); found != refused.end()) return -found->second;
    if (name == "KVM_GET_API_VERSION") return 12;
    if (name == "KVM_ENABLE_CAP") {
      const auto* asked = reinterpret_cast<const kvm_enable_cap*>(argument);
      enabled[asked->cap] = asked->args[0];
      return 0;
    }
    if (name == "KVM_CHECK_EXTENSION") {
      const auto found = extensions.find(argument);
      return found == extensions.end() ? 1 : found->second;
    }
    if (name == "KVM_GET_VCPU_MMAP_SIZE") return kMappingSize;
    if (name == "KVM_CREATE_VM") return memfd_create("vm", MFD_CLOEXEC);
    if (name == "KVM_CREATE_VCPU") {
      const int fd = memfd_create("vcpu", MFD_CLOEXEC);
      EXPECT_EQ(ftruncate(fd, kWholeSize), 0);
      run_ = *Mapping::of_file(fd, kWholeSize);
      return fd;
    }
    if (name == "KVM_GET_MSRS" || name == "KVM_SET_MSRS") return move_msrs(name == "KVM_SET_MSRS", argument);
    // A register file is given as it was last taken, and before that it is all zeros.
    for (const std::string& file : kRegisterFiles) {
      if (name == "KVM_SET_" + file) keep(file, argument, _IOC_SIZE(request.number));
      if (name == "KVM_GET_" + file) give(file, argument);
    }
    if (name == "KVM_RESET_DIRTY_RINGS" && on_reset_rings) return on_reset_rings();
    if (name == "KVM_RUN") return on_run ? on_run(*reinterpret_cast<kvm_run*>(run_.data())) : -EINTR;
    return 0;
  }

  void keep(const std::string& file, unsigned long argument, size_t size) {
    const auto* bytes = reinterpret_cast<const std::byte*>(argument);
    files_[file].assign(bytes, bytes + size);
  }
  void give(const std::string& file, unsigned long argument) const {
    if (const auto found = files_.find(file); found != files_.end())
      std::copy(found->second.begin(), found->second.end(), reinterpret_cast<std::byte*>(argument));
  }
  // All that are asked for.
  int move_msrs(bool set, unsigned long argument) {
    const int count = *reinterpret_cast<int*>(argument);
    auto* entries = reinterpret_cast<kvm_msr_entry*>(argument + 8);
    for (int i = 0; i < count; ++i)
      if (set)
        msrs_[entries[i].index] = entries[i].data;
      else
        entries[i].data = msrs_[entries[i].index];
    return count;
  }

  static inline const std::vector<std::string> kRegisterFiles = {
      "REGS", "SREGS2", "XCRS", "XSAVE", "DEBUGREGS", "VCPU_EVENTS", "MP_STATE"};
  std::map<std::string, std::vector<std::byte>> files_;
  std::map<uint32_t, uint64_t> msrs_;
  Mapping run_;
};

}  // namespace ostler::accel::kvm
