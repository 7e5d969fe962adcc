// Unpacking of kernel payloads.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "boot/unpacked.h"

namespace ostler::boot {

// The compression of `data` by its magic bytes: "gzip", "xz", "zstd", "lz4", or "" when it is none of these.
std::string_view compression_of(std::span<const uint8_t> data);

// Unpacks one gzip, xz, zstd or legacy lz4 stream; bytes after its end are ignored (bzImage appends the
// unpacked size). Errors: kCorrupt for broken data, kNoResource when the result would exceed `most` bytes.
Result<Unpacked> decompress(std::span<const uint8_t> data, size_t most);

}  // namespace ostler::boot
