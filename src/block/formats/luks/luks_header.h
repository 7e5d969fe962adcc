// The header of a LUKS1 volume, eight key slots among its fields, big-endian.
// Source: "LUKS On-Disk Format Specification" 1.2.3 (2018).
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "block/formats/luks/luks_algorithm.h"
#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct LuksSlot {
  bool active = false;
  uint32_t iterations = 0;
  std::array<uint8_t, 32> salt{};
  uint32_t material_sector = 0;
};

struct LuksHeader {
  static constexpr size_t kBytes = 592;
  static constexpr uint32_t kStripes = 4000;
  static constexpr size_t kDigestBytes = 20;
  // Of all slots together: a made-up header could ask for hours of computing.
  static constexpr uint64_t kMostIterations = uint64_t{1} << 28;

  LuksAlgorithm algorithm;
  std::string hash = "sha256";
  uint32_t payload_sector = 0;
  std::array<uint8_t, kDigestBytes> digest{};
  std::array<uint8_t, 32> digest_salt{};
  uint32_t digest_iterations = 0;
  std::string uuid;
  std::array<LuksSlot, 8> slots;

  static bool recognised(std::span<const std::byte> head);
  // `room`: bytes of `file` from the header on; its key slots and the payload's place must lie within.
  static Result<LuksHeader> parse(std::span<const std::byte, kBytes> bytes, const Node& file, uint64_t room);
  std::array<std::byte, kBytes> encode() const;
  // Lays out slots and payload, for the algorithm's keys.
  void place_slots();
  uint32_t key_bytes() const { return algorithm.key_bytes(); }
  uint64_t material_bytes() const { return uint64_t{key_bytes()} * kStripes; }
  // As `qemu-img info` has it.
  nlohmann::json describe() const;
  uint64_t payload_offset() const { return payload_sector * uint64_t{512}; }
};

}  // namespace ostler::block
