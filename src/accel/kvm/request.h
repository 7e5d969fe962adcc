// One ioctl of KVM: its number, and its name for -d kvm (the kernel's Documentation/virt/kvm/api.rst). Any
// thread.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace ostler::accel::kvm {

struct Request {
  unsigned long number;
  std::string_view name;
};

// The result of the call, or -errno.
int call(int fd, const Request& request, unsigned long argument = 0);
template <class T>
int call(int fd, const Request& request, T* argument) {
  return call(fd, request, reinterpret_cast<unsigned long>(argument));
}

// A header with its entries behind it, as several calls pass them. The kernel's own declarations of the
// headers have another size in C++ than in C, which the numbers of the requests depend on.
template <class Entry>
class EntryList {
 public:
  explicit EntryList(size_t capacity) : words_((kHeader + capacity * sizeof(Entry) + 7) / 8) {
    set_count(capacity);
  }
  uint32_t count() const { return *reinterpret_cast<const uint32_t*>(words_.data()); }
  void set_count(size_t count) { *reinterpret_cast<uint32_t*>(words_.data()) = static_cast<uint32_t>(count); }
  Entry* entries() { return reinterpret_cast<Entry*>(reinterpret_cast<std::byte*>(words_.data()) + kHeader); }
  const Entry* entries() const {
    return reinterpret_cast<const Entry*>(reinterpret_cast<const std::byte*>(words_.data()) + kHeader);
  }
  void* data() { return words_.data(); }

 private:
  static constexpr size_t kHeader = sizeof(Entry) > 4 ? 8 : 4;  // a count, and padding
  std::vector<uint64_t> words_;
};
using CpuidList = EntryList<kvm_cpuid_entry2>;
using MsrList = EntryList<kvm_msr_entry>;
using MsrIndexList = EntryList<uint32_t>;
using RoutingList = EntryList<kvm_irq_routing_entry>;

inline constexpr Request kGetApiVersion{KVM_GET_API_VERSION, "KVM_GET_API_VERSION"},
    kCheckExtension{KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION"}, kCreateVm{KVM_CREATE_VM, "KVM_CREATE_VM"},
    kGetVcpuMmapSize{KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE"},
    kGetSupportedCpuid{_IOWR(KVMIO, 0x05, uint64_t), "KVM_GET_SUPPORTED_CPUID"},
    kSetIdentityMapAddr{KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR"},
    kSetTssAddr{KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR"}, kEnableCap{KVM_ENABLE_CAP, "KVM_ENABLE_CAP"},
    kSetMsrFilter{KVM_X86_SET_MSR_FILTER, "KVM_X86_SET_MSR_FILTER"},
    kSetUserMemoryRegion{KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION"},
    kGetDirtyLog{KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG"}, kCreateVcpu{KVM_CREATE_VCPU, "KVM_CREATE_VCPU"},
    kRun{KVM_RUN, "KVM_RUN"}, kGetRegs{KVM_GET_REGS, "KVM_GET_REGS"}, kSetRegs{KVM_SET_REGS, "KVM_SET_REGS"},
    kGetSregs2{KVM_GET_SREGS2, "KVM_GET_SREGS2"}, kSetSregs2{KVM_SET_SREGS2, "KVM_SET_SREGS2"},
    kGetXsave{_IOR(KVMIO, 0xa4, std::byte[4096]), "KVM_GET_XSAVE"},
    kSetXsave{_IOW(KVMIO, 0xa5, std::byte[4096]), "KVM_SET_XSAVE"}, kGetXcrs{KVM_GET_XCRS, "KVM_GET_XCRS"},
    kSetXcrs{KVM_SET_XCRS, "KVM_SET_XCRS"}, kGetMsrs{_IOWR(KVMIO, 0x88, uint64_t), "KVM_GET_MSRS"},
    kSetMsrs{_IOW(KVMIO, 0x89, uint64_t), "KVM_SET_MSRS"},
    kSetCpuid2{_IOW(KVMIO, 0x90, uint64_t), "KVM_SET_CPUID2"},
    kGetDebugregs{KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"},
    kSetDebugregs{KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"},
    kGetVcpuEvents{KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS"},
    kSetVcpuEvents{KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS"},
    kSetGuestDebug{KVM_SET_GUEST_DEBUG, "KVM_SET_GUEST_DEBUG"}, kInterrupt{KVM_INTERRUPT, "KVM_INTERRUPT"},
    kNmi{KVM_NMI, "KVM_NMI"}, kSetupMce{KVM_X86_SETUP_MCE, "KVM_X86_SETUP_MCE"},
    kSetDeviceAttr{KVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR"},
    kResetDirtyRings{KVM_RESET_DIRTY_RINGS, "KVM_RESET_DIRTY_RINGS"},
    kClearDirtyLog{KVM_CLEAR_DIRTY_LOG, "KVM_CLEAR_DIRTY_LOG"}, kIoEventFd{KVM_IOEVENTFD, "KVM_IOEVENTFD"},
    kCreateIrqchip{KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP"}, kGetIrqchip{KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP"},
    kSetIrqchip{KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP"}, kCreatePit2{KVM_CREATE_PIT2, "KVM_CREATE_PIT2"},
    kGetPit2{KVM_GET_PIT2, "KVM_GET_PIT2"}, kSetPit2{KVM_SET_PIT2, "KVM_SET_PIT2"},
    kReinjectControl{KVM_REINJECT_CONTROL, "KVM_REINJECT_CONTROL"}, kIrqLine{KVM_IRQ_LINE, "KVM_IRQ_LINE"},
    kRegisterLate{KVM_REGISTER_COALESCED_MMIO, "KVM_REGISTER_COALESCED_MMIO"},
    kUnregisterLate{KVM_UNREGISTER_COALESCED_MMIO, "KVM_UNREGISTER_COALESCED_MMIO"},
    kIrqFd{KVM_IRQFD, "KVM_IRQFD"}, kSignalMsi{KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI"},
    kSetGsiRouting{_IOW(KVMIO, 0x6a, uint64_t), "KVM_SET_GSI_ROUTING"},
    kGetLapic{KVM_GET_LAPIC, "KVM_GET_LAPIC"}, kSetLapic{KVM_SET_LAPIC, "KVM_SET_LAPIC"},
    kGetMpState{KVM_GET_MP_STATE, "KVM_GET_MP_STATE"}, kSetMpState{KVM_SET_MP_STATE, "KVM_SET_MP_STATE"};

}  // namespace ostler::accel::kvm
