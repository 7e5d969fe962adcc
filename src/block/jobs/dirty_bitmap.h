// Which granules of a disk a job still has to look at. Memory is taken for those parts only where bits are
// set.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace ostler::block {

// All members from any thread. Offsets and lengths in bytes; a part of a granule stands for all of it.
class DirtyBitmap {
 public:
  // `granularity`: a power of two; it is made coarser where the bits would take more than kMostBytes.
  DirtyBitmap(uint64_t disk_bytes, uint64_t granularity);

  static constexpr uint64_t kMostBytes = 16u << 20;

  uint64_t granularity() const { return uint64_t{1} << shift_; }
  uint64_t disk_bytes() const { return disk_bytes_; }
  void set(uint64_t offset, uint64_t bytes);
  void clear(uint64_t offset, uint64_t bytes);
  // Only granules that lie in the range entirely; the disk's last one may be short.
  void clear_whole(uint64_t offset, uint64_t bytes);
  bool any(uint64_t offset, uint64_t bytes) const;
  uint64_t dirty_bytes() const;
  // The first dirty run at or after `offset`, cut to `most` bytes; false if there is none.
  bool next(uint64_t offset, uint64_t most, uint64_t& begin, uint64_t& bytes) const;
  // next(), and the run is clear from then on.
  bool take(uint64_t offset, uint64_t most, uint64_t& begin, uint64_t& bytes);

 private:
  static constexpr uint64_t kPieceBits = 32768;
  struct Piece {
    std::array<uint64_t, kPieceBits / 64> words{};
    uint64_t count = 0;  // bits set
  };
  void change_locked(uint64_t first, uint64_t end, bool value);
  bool get_locked(uint64_t index) const;
  bool next_locked(uint64_t offset, uint64_t most, uint64_t& begin, uint64_t& bytes) const;

  const uint64_t disk_bytes_;
  unsigned shift_;
  mutable std::mutex mutex_;
  std::map<uint64_t, std::unique_ptr<Piece>> pieces_;
  uint64_t count_ = 0;
};

}  // namespace ostler::block
