// Footer and header of a virtual hard disk (VHD): big-endian, with a checksum each.
// Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (2006).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct VhdGeometry {
  uint16_t cylinders = 0;
  uint8_t heads = 0;
  uint8_t sectors = 0;  // per track

  uint64_t total() const { return uint64_t{cylinders} * heads * sectors; }
  // The largest geometry within `sectors`: "Appendix: CHS Calculation".
  static VhdGeometry of(uint64_t sectors);
  static constexpr uint64_t kMostSectors = uint64_t{65535} * 16 * 255;
};

struct VhdFooter {
  static constexpr size_t kBytes = 512;
  static constexpr uint32_t kFixed = 2, kDynamic = 3, kDifferencing = 4;

  uint64_t header_offset = ~uint64_t{0};  // of a dynamic disk's header
  uint32_t timestamp = 0;                 // seconds since 2000
  std::string creator = "qemu";           // four characters
  uint64_t original_bytes = 0;
  uint64_t current_bytes = 0;
  VhdGeometry geometry;
  uint32_t type = kDynamic;
  Uuid uuid{};

  // Whether cookie and checksum are right.
  static bool recognised(std::span<const std::byte, kBytes> bytes);
  static Result<VhdFooter> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
  std::array<std::byte, kBytes> encode() const;
  // What the disk's size is: some programs round it to the geometry, others tell it exactly.
  uint64_t disk_bytes() const;
};

struct VhdHeader {
  static constexpr size_t kBytes = 1024;
  static constexpr uint64_t kMostTableBytes = uint64_t{64} << 20;
  static constexpr uint32_t kUnused = 0xffffffff;  // entry of the table

  uint64_t table_offset = 0;
  uint32_t entries = 0;
  uint32_t block_bytes = 2 << 20;

  static Result<VhdHeader> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
  std::array<std::byte, kBytes> encode() const;
};

}  // namespace ostler::block
