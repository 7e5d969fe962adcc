// Parts of a file that hold an image's tables, kept in memory a page at a time: the least recently used page
// makes room. Changes stay in memory until they are stored, sector by sector: other sectors of a page may be
// guests' data. Bounded, whatever size an image claims, if changes are stored when there are kMostChanged
// pages of them.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "block/node.h"

namespace ostler::block {

class TablePages {
 public:
  static constexpr size_t kPageBytes = 16384;
  static constexpr size_t kMostPages = 256;  // 4 MiB
  static constexpr size_t kMostChanged = 64;

  // `bytes` at `offset` of `file`, changes that are not stored included. Any number at a time.
  Task<int> read(Node& file, uint64_t offset, void* to, size_t bytes);
  // In memory. One at a time for the same bytes.
  Task<int> change(Node& file, uint64_t offset, const void* from, size_t bytes);
  // Zeros for a new table, in the file at once.
  Task<int> clear_in_file(Node& file, uint64_t offset, uint64_t bytes);

  // Sectors that follow each other.
  struct Change {
    uint64_t offset;  // in the file, bytes
    std::vector<std::byte> bytes;
  };
  // Pages with changes that are not in the file, those that were taken included.
  size_t changed() const;
  // All changes since the last call, as they are at one moment. stored() follows, then the next take().
  std::vector<Change> take();
  // Those that were taken are in the file, or (false) are to be taken again.
  void stored(bool all);

 private:
  static constexpr size_t kSector = 512;
  struct Page {
    uint64_t number;
    uint32_t changed = 0, taken = 0;  // a bit for each sector
    std::array<std::byte, kPageBytes> bytes;
  };
  static_assert(kPageBytes / kSector <= 32);
  // `act(page, offset in it)` if the page is kept.
  template <class Act>
  bool with_page(uint64_t offset, Act act);
  Task<int> load(Node& file, uint64_t number);
  Page& new_page();

  mutable std::mutex mutex_;  // of all below
  std::list<Page> pages_;     // most recently used first
  std::unordered_map<uint64_t, std::list<Page>::iterator> index_;
  size_t changed_ = 0;
  uint64_t changes_ = 0;  // a page read before a change and kept after it would be old
};

}  // namespace ostler::block
