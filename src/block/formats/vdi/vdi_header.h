// The header of a VirtualBox disk image (VDI), version 1.1: little-endian fields in the first 512 bytes.
// Source: the layout published by VirtualBox ("All about VDIs") and images as they are written.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct VdiHeader {
  static constexpr size_t kBytes = 512;
  static constexpr uint32_t kSignature = 0xbeda107f;
  static constexpr size_t kSignatureOffset = 0x40;
  static constexpr uint32_t kDynamic = 1, kStatic = 2;
  static constexpr uint32_t kAllocatedOffset = 0x184;
  // Entries of the block map; others are the number of a block behind data_offset.
  static constexpr uint32_t kUnallocated = 0xffffffff, kDiscarded = 0xfffffffe;
  static constexpr uint64_t kMostMapBytes = uint64_t{256} << 20;

  uint32_t type = kDynamic;
  uint32_t map_offset = 512;  // bytes
  uint32_t data_offset = 0;   // bytes
  uint64_t disk_bytes = 0;
  uint32_t block_bytes = 1 << 20;
  uint32_t blocks = 0;
  uint32_t allocated = 0;
  Uuid uuid{}, last_snapshot{}, link{}, parent{};

  // Checks every field; `file` is for the messages.
  static Result<VdiHeader> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
  std::array<std::byte, kBytes> encode() const;
};

}  // namespace ostler::block
