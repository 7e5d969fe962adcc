// The Linux x86 boot protocol (kernel Documentation/arch/x86/boot.rst): the setup header of a bzImage.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "boot/elf.h"
#include "boot/image.h"

namespace ostler::boot {

bool is_bzimage(std::span<const uint8_t> file);

// The vmlinux inside (protocol 2.08 and later), unpacked to at most `most` bytes.
Result<Unpacked> unpack_vmlinux(std::span<const uint8_t> file, size_t most);

// The 64-bit entry of the kernel's own unpacker, with a zero page that describes the machine (protocol 2.12).
Result<Image> load_linux64(const Request& request);

}  // namespace ostler::boot
