// The filter "blkdebug": requests that fail on purpose, by rules.
#pragma once

#include <mutex>
#include <optional>
#include <vector>

#include "block/filters/filter.h"

namespace ostler::block {

enum FaultKind : unsigned {
  kFaultRead = 1,
  kFaultWrite = 2,
  kFaultWriteZeroes = 4,
  kFaultDiscard = 8,
  kFaultFlush = 16,
  kFaultStatus = 32,
  kFaultTruncate = 64,
};

struct FaultRule {
  unsigned kinds = kFaultRead | kFaultWrite | kFaultWriteZeroes | kFaultDiscard | kFaultFlush;
  int error = EIO;
  uint64_t skip = 0;                    // matching requests that succeed first
  bool once = false;                    // else every one from then on
  std::optional<uint64_t> offset = {};  // only requests that touch this byte
  uint64_t transfer = 0;                // of a write: bytes that are written before it fails
};

class FaultNode final : public FilterNode {
 public:
  FaultNode() : FilterNode("blkdebug", "image") {}
  // Any thread.
  void add(FaultRule rule);
  void clear();
  // Requests of these kinds so far.
  uint64_t count(unsigned kinds) const;

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;

 private:
  struct Verdict {
    int error = 0;
    uint64_t transfer = 0;
  };
  Verdict judge(FaultKind kind, uint64_t offset, uint64_t bytes);
  mutable std::mutex mutex_;
  std::vector<FaultRule> rules_;
  uint64_t counts_[8] = {};
};

}  // namespace ostler::block
