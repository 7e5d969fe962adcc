// What some image formats can do besides holding bytes. A node gives these by snapshots(), bitmaps(),
// checker().
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/task.h"

namespace ostler::block {

struct SnapshotInfo {
  std::string id;
  std::string name;
  uint64_t vm_state_bytes = 0;
  uint64_t date_seconds = 0;  // since 1970
  uint32_t date_nanoseconds = 0;
  uint64_t vm_clock_nanoseconds = 0;
  uint64_t icount = ~uint64_t{0};  // ~0: none
  uint64_t disk_bytes = 0;         // virtual size at that time
};

// Snapshots inside an image. `which` is an id or, if none has it, a name. The image is drained.
class Snapshots {
 public:
  virtual ~Snapshots() = default;
  virtual std::vector<SnapshotInfo> list() const = 0;
  virtual Task<Result<void>> create(SnapshotInfo info) = 0;  // an empty id: the next free number
  virtual Task<Result<void>> apply(std::string which) = 0;
  virtual Task<Result<void>> remove(std::string which) = 0;
  // Reads go to the snapshot from now on; only on an image opened for reading.
  virtual Task<Result<void>> load(std::string which) = 0;
};

struct BitmapInfo {
  std::string name;
  uint64_t granularity = 0;  // bytes per bit
  bool in_use = false;       // was not stored properly: its content is of no use
  bool enabled = true;       // "auto": records writes while the image is in use
  bool persistent = true;
  uint64_t dirty_bytes = 0;
};

// Bitmaps of what was written. Those of an image live in memory while it is open for writing and are stored
// when it is closed.
class Bitmaps {
 public:
  virtual ~Bitmaps() = default;
  virtual std::vector<BitmapInfo> list() const = 0;
  virtual Task<Result<void>> add(std::string name, uint64_t granularity, bool enabled) = 0;
  virtual Task<Result<void>> remove(std::string name) = 0;
  virtual Task<Result<void>> clear(std::string name) = 0;
  virtual Task<Result<void>> enable(std::string name, bool enabled) = 0;
  // The first run of dirty bits at or after `offset`: false if there is none. Bytes.
  virtual Result<bool> next_dirty(const std::string& name, uint64_t offset, uint64_t& begin,
                                  uint64_t& end) const = 0;
  virtual Result<void> mark(const std::string& name, uint64_t offset, uint64_t bytes) = 0;
};

struct CheckOptions {
  bool repair_leaks = false;
  bool repair_errors = false;
};

struct CheckReport {
  uint64_t corruptions = 0, leaks = 0, errors = 0;  // errors: of the checking itself
  uint64_t corruptions_fixed = 0, leaks_fixed = 0;
  uint64_t image_end_offset = 0;
  uint64_t total_clusters = 0, allocated_clusters = 0, fragmented_clusters = 0, compressed_clusters = 0;
  std::vector<std::string> messages;  // bounded
  uint64_t messages_left_out = 0;
};

class Checker {
 public:
  virtual ~Checker() = default;
  // Errors are those that make checking impossible. The image is drained.
  virtual Task<Result<CheckReport>> check(CheckOptions options) = 0;
};

}  // namespace ostler::block
