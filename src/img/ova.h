// Members of an .ova: a tar archive (POSIX.1-2017, pax "ustar Interchange Format") with the description of a
// machine and its disks. The archive is hostile input: nothing of it is kept but names and places.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"

namespace ostler::img {

struct OvaMember {
  std::string name;
  uint64_t offset = 0, bytes = 0;  // of its content in the archive
  uint64_t next = 0;               // where the next header lies
};

inline constexpr size_t kTarBlock = 512;

// The header at `offset` of an archive of `archive_bytes`. Nothing: a block of zeros, the end. Errors name
// the offset: a wrong checksum, a size that is no number or goes beyond the archive.
Result<std::optional<OvaMember>> read_tar_header(std::span<const std::byte, kTarBlock> header,
                                                 uint64_t offset, uint64_t archive_bytes);

}  // namespace ostler::img
