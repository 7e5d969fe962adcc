// The PVH entry of an x86 kernel (Xen's x86/HVM direct boot ABI, struct hvm_start_info version 1).
#pragma once

#include "base/result.h"
#include "boot/elf.h"
#include "boot/image.h"

namespace ostler::boot {

// `elf` has a PVH note.
Result<Image> load_pvh(const Request& request, Elf elf);

}  // namespace ostler::boot
