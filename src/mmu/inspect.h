// Guest memory by guest-linear address, as a debugger looks at it: through the page tables of the given
// state, with supervisor rights, and without a trace: no accessed or dirty bits, no faults, no device is
// touched. While the vCPU is paused; any one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "memory/address_space.h"
#include "x86/state.h"

namespace ostler::mmu {

class Inspector {
 public:
  // `phys_bits`: MAXPHYADDR. `state` is read at each call.
  Inspector(const x86::CpuState& state, memory::AddressSpace& space, unsigned phys_bits, bool gib_pages)
      : state_(state), space_(space), phys_bits_(phys_bits), gib_pages_(gib_pages) {}

  // nullopt: not mapped, or not an address of the present mode.
  std::optional<GuestPhys> translate(uint64_t linear) const;
  // The number of bytes read from `linear` on, as far as there is RAM or ROM.
  size_t read(uint64_t linear, std::span<std::byte> out) const;
  // All or nothing: false when any byte is not in writable RAM. Decoded code of those bytes is dropped.
  bool write(uint64_t linear, std::span<const std::byte> in) const;

 private:
  const x86::CpuState& state_;
  memory::AddressSpace& space_;
  const unsigned phys_bits_;
  const bool gib_pages_;
};

}  // namespace ostler::mmu
