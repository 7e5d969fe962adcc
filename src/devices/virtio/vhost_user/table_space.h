// Room for indirect tables: places in an array of descriptors, of which each table takes some in a row.
// One thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace ostler::virtio::vhost_user {

class TableSpace {
 public:
  explicit TableSpace(uint32_t places) : free_{{0, places}} {}
  // The first of `count` > 0 free places in a row; none: there are not that many.
  std::optional<uint32_t> take(uint32_t count);
  bool fits(uint32_t count) const;
  // What take() gave.
  void give(uint32_t first, uint32_t count);

 private:
  std::map<uint32_t, uint32_t> free_;  // runs that do not touch: the first place, how many
};

}  // namespace ostler::virtio::vhost_user
