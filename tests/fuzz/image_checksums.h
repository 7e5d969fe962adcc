// Checksums of images, made right before the image is opened: else nearly every changed byte would end there.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "block/formats/vhdx/crc32c.h"

namespace ostler::block {

namespace detail {

// VHD: one's complement of the sum of a part's bytes, big-endian.
template <class File>
void correct_sum(File& file, uint64_t offset, size_t bytes, size_t place) {
  std::vector<uint8_t> part(bytes);
  file.get(offset, part.data(), bytes);
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes; ++i)
    if (i < place || i >= place + 4) sum += part[i];
  const uint32_t swapped = __builtin_bswap32(~sum);
  file.put(offset + place, &swapped, sizeof swapped);
}

// VHDX: CRC-32C of a part, its own place taken as zero, in bytes 4 to 7.
template <class File>
void correct_crc(File& file, uint64_t offset, size_t bytes) {
  std::vector<uint8_t> part(bytes);
  file.get(offset, part.data(), bytes);
  std::memset(part.data() + 4, 0, 4);
  const uint32_t sum = crc32c(part.data(), part.size());
  file.put(offset + 4, &sum, sizeof sum);
}

}  // namespace detail

// Only where the file has something already: it does not grow.
template <class File>
void correct_checksums(std::string_view format, File& file) {
  const uint64_t size = file.size();
  if (format == "vpc" && size >= 1536) {
    detail::correct_sum(file, 0, 512, 64);
    detail::correct_sum(file, size - 512, 512, 64);
    detail::correct_sum(file, 512, 1024, 36);
  }
  // Not a checksum: numbers of iterations, so that an input takes no seconds.
  if (format == "luks" && size >= 592) {
    uint8_t few[4] = {0, 0, 0, 10};
    file.put(164, few, sizeof few);
    for (int slot = 0; slot < 8; ++slot) file.put(212 + slot * 48, few, sizeof few);
  }
  if (format == "vhdx" && size >= (1 << 20)) {
    detail::correct_crc(file, 64 << 10, 4096);
    detail::correct_crc(file, 128 << 10, 4096);
    detail::correct_crc(file, 192 << 10, 65536);
    detail::correct_crc(file, 256 << 10, 65536);
    // Entries of a log at its usual place.
    for (uint64_t at = 1 << 20; at + 4096 <= size && at < (2 << 20); at += 4096) {
      uint8_t head[12];
      file.get(at, head, sizeof head);
      uint32_t length;
      std::memcpy(&length, head + 8, sizeof length);
      if (std::memcmp(head, "loge", 4) == 0 && length >= 4096 && length <= 65536)
        detail::correct_crc(file, at, length);
    }
  }
}

}  // namespace ostler::block
