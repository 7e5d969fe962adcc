#include "machine/paravirt.h"

namespace ostler::machine {

uint64_t Paravirt::hypercall(uint64_t, const uint64_t (&)[4]) {
  // None is offered in CPUID; a guest that tries gets -KVM_ENOSYS.
  constexpr int64_t kNoSuchCall = -1000;
  return static_cast<uint64_t>(kNoSuchCall);
}

}  // namespace ostler::machine
