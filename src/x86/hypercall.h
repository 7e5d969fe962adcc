// A guest's VMCALL or VMMCALL as KVM takes it (Linux Documentation/virt/kvm/x86/hypercalls.rst).
#pragma once

#include <cstdint>

namespace ostler::x86 {

struct Hypercall {
  uint64_t number = 0;         // RAX
  uint64_t arguments[4] = {};  // RBX, RCX, RDX, RSI
  bool wide = true;            // from 64-bit code; else all of them have 32 bits
};

}  // namespace ostler::x86
