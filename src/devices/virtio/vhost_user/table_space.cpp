#include "devices/virtio/vhost_user/table_space.h"

#include <algorithm>
#include <iterator>

namespace ostler::virtio::vhost_user {

bool TableSpace::fits(uint32_t count) const {
  return std::ranges::any_of(free_, [count](const auto& run) { return run.second >= count; });
}

std::optional<uint32_t> TableSpace::take(uint32_t count) {
  const auto found = std::ranges::find_if(free_, [count](const auto& run) { return run.second >= count; });
  if (found == free_.end()) return std::nullopt;
  const auto [first, places] = *found;
  free_.erase(found);
  if (places > count) free_.emplace(first + count, places - count);
  return first;
}

void TableSpace::give(uint32_t first, uint32_t count) {
  const auto after = free_.lower_bound(first);
  if (after != free_.end() && after->first == first + count) {
    count += after->second;
    free_.erase(after);
  }
  const auto behind = free_.lower_bound(first);
  if (behind != free_.begin()) {
    const auto before = std::prev(behind);
    if (before->first + before->second == first) {
      before->second += count;
      return;
    }
  }
  free_.emplace(first, count);
}

}  // namespace ostler::virtio::vhost_user
