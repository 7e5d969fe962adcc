// Keeps every write and flush with its data in memory, so that the image can be built as a power
// cut at any point would have left it.
#pragma once

#include <mutex>
#include <random>
#include <vector>

#include "block/filters/filter.h"

namespace ostler::block::test {

struct WriteRecord {
  enum class Kind { kWrite, kZero, kTruncate, kFlushBegin, kFlushEnd };
  Kind kind;
  uint64_t offset = 0;  // of kTruncate: the size
  uint64_t bytes = 0;
  std::vector<std::byte> data;
};

class WriteLogNode final : public FilterNode {
 public:
  WriteLogNode() : FilterNode("write-log", "file") {}

  // In the order in which they were done. Any thread.
  std::vector<WriteRecord> records() const;
  size_t count() const;

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;

 private:
  void keep(WriteRecord record);
  mutable std::mutex mutex_;
  std::vector<WriteRecord> records_;
};

// `image` as it is when the power goes after the first `cut` records. What was done before a flush that has
// ended began is there; of the later records each is there or not, by `random` (null: all are), and of the
// last write perhaps only some of its sectors.
std::vector<std::byte> image_after_power_cut(std::vector<std::byte> image,
                                             const std::vector<WriteRecord>& records, size_t cut,
                                             std::mt19937* random);

}  // namespace ostler::block::test
