// Owner, mode and device of a guest's file in extended attributes of the host's: user.virtfs.uid, .gid, .mode
// (32 bits) and .rdev (64 bits), little-endian, so that folders are exchangeable with QEMU's.
// Functions return 0 or an errno.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "fs9p/host_file.h"

namespace ostler::fs9p {

struct Mapping {
  std::optional<uint32_t> uid, gid, mode;
  std::optional<uint64_t> special;
};

inline constexpr std::string_view kMappingPrefix = "user.virtfs.";

// Attributes that are missing or of another size are none.
int load_mapping(const Node& node, Mapping& out);
// Sets those that have a value.
int store_mapping(const Node& node, const Mapping& mapping);

}  // namespace ostler::fs9p
