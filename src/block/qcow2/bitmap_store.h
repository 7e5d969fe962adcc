// Dirty bitmaps of an image in memory, and their directory as the file has it.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "block/capabilities.h"
#include "block/qcow2/header.h"

namespace ostler::block::qcow2 {

inline constexpr uint32_t kMostBitmaps = 65535;
inline constexpr uint64_t kMostDirectoryBytes = 64u << 20;
inline constexpr uint64_t kMostBitmapBytes = 64u << 20;  // of all bitmaps in memory
inline constexpr unsigned kSmallestGranularity = 9, kLargestGranularity = 31;

struct BitmapEntry {
  uint64_t table_offset = 0;
  uint32_t table_entries = 0;
  bool in_use = false;  // was not stored: its content is of no use
  bool enabled = true;
  uint8_t granularity_bits = 16;
  std::string name;
  std::vector<std::byte> extra;
};

Result<std::vector<BitmapEntry>> parse_bitmaps(std::span<const std::byte> bytes, uint32_t count,
                                               uint64_t cluster_bytes, const std::string& name);
std::vector<std::byte> serialize_bitmaps(const std::vector<BitmapEntry>& entries);

// All members from any thread.
class BitmapStore final : public Bitmaps {
 public:
  struct Bitmap;
  explicit BitmapStore(uint64_t disk_bytes, std::vector<Bitmap> bitmaps = {});

  std::vector<BitmapInfo> list() const override;
  Task<Result<void>> add(std::string name, uint64_t granularity, bool enabled) override;
  Task<Result<void>> remove(std::string name) override;
  Task<Result<void>> clear(std::string name) override;
  Task<Result<void>> enable(std::string name, bool enabled) override;
  Result<bool> next_dirty(const std::string& name, uint64_t offset, uint64_t& begin,
                          uint64_t& end) const override;
  Result<void> mark(const std::string& name, uint64_t offset, uint64_t bytes) override;

  // Whether there are any: without them writes need no lock.
  bool any() const { return any_; }
  // A guest's write: to all that are enabled.
  void written(uint64_t offset, uint64_t bytes);
  void resize(uint64_t disk_bytes);
  bool changed() const;
  void set_stored();

  // Bits in memory, in pieces that exist if a bit of them is set.
  static constexpr uint64_t kPieceBits = 32768;
  using Piece = std::array<uint64_t, kPieceBits / 64>;
  struct Bitmap {
    BitmapEntry entry;
    std::map<uint64_t, std::unique_ptr<Piece>> pieces;
    void set(uint64_t first, uint64_t end);
    bool get(uint64_t index) const;
  };
  std::vector<Bitmap>& all() { return bitmaps_; }
  const std::vector<Bitmap>& all() const { return bitmaps_; }

 private:
  Result<Bitmap*> find_locked(const std::string& name);
  mutable std::mutex mutex_;
  uint64_t disk_bytes_;
  std::vector<Bitmap> bitmaps_;
  std::atomic<bool> any_;
  bool changed_ = false;
};

}  // namespace ostler::block::qcow2
