// How fast KVM runs code: a guest in real mode counts a register down, several times, until the time is up.
// Some hosts inside other guests have a /dev/kvm that emulates each instruction, about a million a second.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "accel/kvm/mapping.h"
#include "accel/kvm/system.h"

namespace ostler::accel::kvm {
namespace {

using Clock = std::chrono::steady_clock;

// mov cx, 1000; dec cx; jnz .-1; hlt
constexpr uint8_t kCode[] = {0xb9, 0xe8, 0x03, 0x49, 0x75, 0xfd, 0xf4};
constexpr double kInstructions = 2002;
constexpr unsigned kRounds = 8;
constexpr auto kEnough = std::chrono::milliseconds(2);
constexpr uint64_t kCodeAt = 0x1000, kMemory = 0x2000;

}  // namespace

Result<double> measure_speed(const System& system) {
  const auto failed = [](std::string_view what, int error) {
    return errno_error(std::string(what), error < 0 ? -error : EIO);
  };
  const Fd vm(call(system.fd(), kCreateVm));
  if (!vm) return failed(kCreateVm.name, -EIO);
  TRY_ASSIGN(const Mapping memory, Mapping::anonymous(kMemory));
  std::memcpy(memory.data() + kCodeAt, kCode, sizeof kCode);
  kvm_userspace_memory_region region{};
  region.memory_size = kMemory;
  region.userspace_addr = reinterpret_cast<uintptr_t>(memory.data());
  if (const int done = call(vm.get(), kSetUserMemoryRegion, &region); done < 0)
    return failed(kSetUserMemoryRegion.name, done);
  const Fd vcpu(call(vm.get(), kCreateVcpu));
  if (!vcpu) return failed(kCreateVcpu.name, -EIO);
  TRY_ASSIGN(const Mapping mapping, Mapping::of_file(vcpu.get(), system.vcpu_mapping_size()));
  const auto* run = reinterpret_cast<const kvm_run*>(mapping.data());

  kvm_sregs2 special{};
  if (const int done = call(vcpu.get(), kGetSregs2, &special); done < 0) return failed(kGetSregs2.name, done);
  special.cs.base = 0;
  special.cs.selector = 0;
  if (const int done = call(vcpu.get(), kSetSregs2, &special); done < 0) return failed(kSetSregs2.name, done);
  double best = 0;
  const auto start = Clock::now();
  for (unsigned round = 0; round < kRounds && Clock::now() - start < kEnough; ++round) {
    kvm_regs regs{};
    regs.rip = kCodeAt;
    regs.rflags = 2;
    if (const int done = call(vcpu.get(), kSetRegs, &regs); done < 0) return failed(kSetRegs.name, done);
    const auto before = Clock::now();
    const int done = call(vcpu.get(), kRun);
    const std::chrono::duration<double, std::micro> took = Clock::now() - before;
    if (done == -EINTR) continue;
    if (done < 0) return failed(kRun.name, done);
    if (run->exit_reason != KVM_EXIT_HLT)
      return Error(ErrorKind::kUnsupported, "KVM_RUN does not run the code of a test");
    best = std::max(best, kInstructions / took.count());
  }
  return best;
}

}  // namespace ostler::accel::kvm
