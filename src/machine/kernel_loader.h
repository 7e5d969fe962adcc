// Puts a kernel, its initrd and the boot vCPU's registers in place: at the start and again at every reset, so
// that nothing of them is kept in host memory.
#pragma once

#include <string_view>

#include "base/result.h"
#include "boot/image.h"
#include "config/machine.h"
#include "machine/memory_layout.h"
#include "memory/dma.h"
#include "x86/cpu_model.h"

namespace ostler::machine {

// Loads `config.kernel` into guest memory and sets `state` for its entry. Its command line is `options` and
// then -append, so that what the user says wins. A 64-bit kernel needs a `processor` that has the mode.
// Errors name the file and the cure.
Result<void> boot_kernel(const config::Machine& config, std::string_view options, const MemoryLayout& layout,
                         GuestPhys rsdp, boot::Request::Protocol protocol, const x86::CpuModel& processor,
                         memory::Dma& dma, x86::CpuState& state);

}  // namespace ostler::machine
