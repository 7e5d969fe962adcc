// How fast KVM runs code: a guest in real mode counts a register down, several times, until the time is up.
// Some hosts inside other guests have a /dev/kvm that emulates each instruction, about a million a second.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "accel/kvm/kick_signal.h"
#include "accel/kvm/mapping.h"
#include "accel/kvm/refusal.h"
#include "accel/kvm/system.h"

namespace ostler::accel::kvm {
namespace {

// mov cx, 1000; dec cx; jnz .-1; hlt
constexpr uint8_t kCode[] = {0xb9, 0xe8, 0x03, 0x49, 0x75, 0xfd, 0xf4};
constexpr double kInstructions = 2002;
constexpr unsigned kRounds = 8;
constexpr int64_t kEnough = 1'000'000, kTooLong = 2'000'000;  // ns
constexpr uint64_t kCodeAt = 0x1000, kMemory = 0x2000;

}  // namespace

int64_t thread_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Result<double> measure_speed(const System& system, const std::function<int64_t()>& clock) {
  const auto failed = [](std::string_view what, int error) { return refusal(what, error); };
  const int vm_fd = call(system.fd(), kCreateVm);
  if (vm_fd < 0) return failed(kCreateVm.name, vm_fd);
  const Fd vm(vm_fd);
  TRY_ASSIGN(const Mapping memory, Mapping::anonymous(kMemory));
  std::memcpy(memory.data() + kCodeAt, kCode, sizeof kCode);
  kvm_userspace_memory_region region{};
  region.memory_size = kMemory;
  region.userspace_addr = reinterpret_cast<uintptr_t>(memory.data());
  if (const int done = call(vm.get(), kSetUserMemoryRegion, &region); done < 0)
    return failed(kSetUserMemoryRegion.name, done);
  const int vcpu_fd = call(vm.get(), kCreateVcpu);
  if (vcpu_fd < 0) return failed(kCreateVcpu.name, vcpu_fd);
  const Fd vcpu(vcpu_fd);
  TRY_ASSIGN(const Mapping mapping, Mapping::of_file(vcpu.get(), system.vcpu_mapping_size()));
  const auto* run = reinterpret_cast<const kvm_run*>(mapping.data());

  kvm_sregs2 special{};
  if (const int done = call(vcpu.get(), kGetSregs2, &special); done < 0) return failed(kGetSregs2.name, done);
  special.cs.base = 0;
  special.cs.selector = 0;
  if (const int done = call(vcpu.get(), kSetSregs2, &special); done < 0) return failed(kSetSregs2.name, done);
  TRY(install_kick_signal());
  const DelayedKick deadline(kTooLong);
  double best = 0;
  const int64_t start = clock();
  for (unsigned round = 0; round < kRounds && clock() - start < kEnough; ++round) {
    kvm_regs regs{};
    regs.rip = kCodeAt;
    regs.rflags = 2;
    if (const int done = call(vcpu.get(), kSetRegs, &regs); done < 0) return failed(kSetRegs.name, done);
    const int64_t before = clock();
    const int done = call(vcpu.get(), kRun);
    const int64_t took_ns = std::max<int64_t>(clock() - before, 1);
    const auto took = static_cast<double>(took_ns);
    if (done == -EINTR) {
      // Not more than that in so long a time; any other signal says nothing.
      if (took_ns >= kEnough) best = std::max(best, kInstructions * 1000 / took);
      continue;
    }
    if (done < 0) return failed(kRun.name, done);
    if (run->exit_reason != KVM_EXIT_HLT)
      return Error(ErrorKind::kUnsupported, "KVM_RUN does not run the code of a test");
    best = std::max(best, kInstructions * 1000 / took);
  }
  return best;
}

}  // namespace ostler::accel::kvm
