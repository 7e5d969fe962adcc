// Checking an image of clusters: every entry of its tables is looked at, no two may share space.
#include <fmt/format.h>

#include <algorithm>

#include "block/formats/mapped/mapped_node.h"

namespace ostler::block {
namespace {

constexpr size_t kMostMessages = 100;
constexpr uint64_t kMostGranules = uint64_t{1} << 29;  // 64 MiB of bits

}  // namespace

void MappedNode::complain(CheckReport& report, std::string message) {
  if (report.messages.size() < kMostMessages)
    report.messages.push_back(std::move(message));
  else
    ++report.messages_left_out;
}

Task<Result<void>> MappedNode::check_more(CheckReport&) {
  co_return Result<void>();
}

Task<Result<CheckReport>> MappedNode::check(CheckOptions) {
  CO_TRY(co_await settle());
  CheckReport report;
  report.total_clusters = clusters();
  const uint64_t granules = file_->size() / cluster_bytes_ + 1;
  std::vector<bool> used(granules <= kMostGranules ? granules + 1 : 0);
  if (used.empty()) {
    ++report.errors;
    complain(report, filename() + ": the file is too large to look for clusters that share space");
  }
  uint64_t last_end = 0;
  for (uint64_t cluster = 0; cluster < clusters();) {
    Place place;
    const int error = co_await find(cluster, place);
    const uint64_t count = std::clamp<uint64_t>(place.clusters, 1, clusters() - cluster);
    if (error != 0) {
      ++report.corruptions;
      complain(report, fmt::format("{}: the entry of cluster {} (disk offset {}) points to a wrong place",
                                   filename(), cluster, cluster * cluster_bytes_));
      cluster += count;
      continue;
    }
    if (place.kind == Place::Kind::kData) {
      report.allocated_clusters += count;
      if (last_end != 0 && last_end != place.offset) ++report.fragmented_clusters;
      last_end = place.offset + count * cluster_bytes_;
      report.image_end_offset = std::max(report.image_end_offset, last_end);
      for (uint64_t i = 0; i < count; ++i) {
        const uint64_t granule = place.offset / cluster_bytes_ + i;
        if (granule >= used.size()) continue;
        if (used[granule]) {
          ++report.corruptions;
          complain(report, fmt::format("{}: cluster {} shares its space at offset {} with another one",
                                       filename(), cluster + i, place.offset + i * cluster_bytes_));
        }
        used[granule] = true;
      }
    } else if (place.kind == Place::Kind::kCompressed) {
      ++report.allocated_clusters;
      ++report.compressed_clusters;
      report.image_end_offset = std::max(report.image_end_offset, place.offset + place.packed_bytes);
    }
    cluster += count;
  }
  CO_TRY(co_await check_more(report));
  co_return report;
}

}  // namespace ostler::block
