// Multiboot specification 0.6.96 (multiboot 1).
#pragma once

#include <optional>

#include "base/result.h"
#include "boot/image.h"

namespace ostler::boot {

// Offset of the multiboot header in the first 8 KiB, none when there is none.
std::optional<size_t> find_multiboot_header(std::span<const uint8_t> file);

Result<Image> load_multiboot(const Request& request, size_t header_offset);

}  // namespace ostler::boot
