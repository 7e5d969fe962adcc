#include "block/formats/qed/qed_header.h"

#include <fmt/format.h>

namespace ostler::block {
namespace {

constexpr uint64_t kKnownFeatures = QedHeader::kBacking | QedHeader::kNeedCheck | QedHeader::kBackingIsRaw;
constexpr uint32_t kMostName = 1023;

}  // namespace

Result<QedHeader> QedHeader::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  const std::byte* const at = bytes.data();
  if (load_le<uint32_t>(at) != kMagic) return damaged(file, "qed", "its signature is missing");
  QedHeader header;
  header.cluster_bytes = load_le<uint32_t>(at + 4);
  header.table_clusters = load_le<uint32_t>(at + 8);
  header.header_clusters = load_le<uint32_t>(at + 12);
  header.features = load_le<uint64_t>(at + 16);
  header.compatible_features = load_le<uint64_t>(at + 24);
  header.autoclear_features = load_le<uint64_t>(at + 32);
  header.l1_offset = load_le<uint64_t>(at + 40);
  header.disk_bytes = load_le<uint64_t>(at + 48);
  header.backing_offset = load_le<uint32_t>(at + 56);
  header.backing_bytes = load_le<uint32_t>(at + 60);
  if ((header.features & ~kKnownFeatures) != 0)
    return cannot(
        file, "qed",
        fmt::format("it uses features {:#x} that are not known", header.features & ~kKnownFeatures));
  if (!is_power_of_two(header.cluster_bytes) || header.cluster_bytes < 4096 ||
      header.cluster_bytes > (64u << 20))
    return damaged(file, "qed", fmt::format("its clusters have {} bytes", header.cluster_bytes));
  if (!is_power_of_two(header.table_clusters) || header.table_clusters > 16)
    return damaged(file, "qed", fmt::format("its tables have {} clusters", header.table_clusters));
  const uint64_t header_bytes = uint64_t{header.header_clusters} * header.cluster_bytes;
  if (header.header_clusters == 0 || header_bytes > file.size())
    return damaged(file, "qed", fmt::format("its header has {} clusters", header.header_clusters));
  if (header.l1_offset % header.cluster_bytes != 0 || header.l1_offset < header_bytes ||
      header.l1_offset > file.size() || header.table_bytes() > file.size() - header.l1_offset)
    return damaged(file, "qed",
                   fmt::format("its directory at offset {} is not within the file", header.l1_offset));
  if (header.disk_bytes > header.most_bytes() || header.disk_bytes % 512 != 0)
    return damaged(file, "qed", fmt::format("its size is {} bytes", header.disk_bytes));
  if ((header.features & kBacking) != 0 &&
      (header.backing_bytes > kMostName || header.backing_offset < kBytes ||
       header.backing_offset > header_bytes || header.backing_bytes > header_bytes - header.backing_offset))
    return damaged(file, "qed", "the name of its backing file is not within the header");
  return header;
}

std::array<std::byte, QedHeader::kBytes> QedHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  store_le<uint32_t>(at, kMagic);
  store_le<uint32_t>(at + 4, cluster_bytes);
  store_le<uint32_t>(at + 8, table_clusters);
  store_le<uint32_t>(at + 12, header_clusters);
  store_le<uint64_t>(at + 16, features);
  store_le<uint64_t>(at + 24, compatible_features);
  store_le<uint64_t>(at + 32, autoclear_features);
  store_le<uint64_t>(at + 40, l1_offset);
  store_le<uint64_t>(at + 48, disk_bytes);
  store_le<uint32_t>(at + 56, backing_offset);
  store_le<uint32_t>(at + 60, backing_bytes);
  return bytes;
}

}  // namespace ostler::block
