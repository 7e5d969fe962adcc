// Parts of a file that hold an image's tables, kept in memory a page at a time: the least recently used page
// makes room. What is written goes to the file at once. Bounded, whatever size an image claims.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>

#include "block/node.h"

namespace ostler::block {

class TablePages {
 public:
  static constexpr size_t kPageBytes = 16384;
  static constexpr size_t kMostPages = 256;  // 4 MiB

  // `bytes` at `offset` of `file`. Any number at a time.
  Task<int> read(Node& file, uint64_t offset, void* to, size_t bytes);
  // To the file, then to the page if it is kept. One at a time for the same bytes.
  Task<int> write(Node& file, uint64_t offset, const void* from, size_t bytes);
  // The same for a page that was changed in the file by other means.
  void update(uint64_t offset, const void* from, size_t bytes);
  void clear();

 private:
  struct Page {
    uint64_t number;
    std::array<std::byte, kPageBytes> bytes;
  };
  bool copy_kept(uint64_t offset, void* to, size_t bytes);
  Task<int> load(Node& file, uint64_t number);

  std::mutex mutex_;       // of all below
  std::list<Page> pages_;  // most recently used first
  std::unordered_map<uint64_t, std::list<Page>::iterator> index_;
  uint64_t changes_ = 0;  // a page read before a change and kept after it would be old
};

}  // namespace ostler::block
