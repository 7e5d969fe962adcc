// The filter "preallocate", between a format and its file: a write beyond the file's end first makes it
// longer by much, in space that is reserved and reads as zeros. What was not used is cut off at the end.
//
//   0            size()                  the file's end
//   |── data ──────|── reserved, zeros ────|
//
// A crash leaves the file longer, which formats take for space that nobody uses.
#pragma once

#include <atomic>

#include "block/filters/filter.h"
#include "block/mutex.h"

namespace ostler::block {

class PreallocateNode final : public FilterNode {
 public:
  static constexpr uint64_t kDefaultAlign = 1u << 20, kDefaultSize = 128u << 20;

  // Bytes: `size` is reserved behind a write, and the file's end is a multiple of `align`.
  PreallocateNode(uint64_t align, uint64_t size)
      : FilterNode("preallocate", "file"), align_(align), reserve_(size) {}
  // What it asks of the file: its length is the filter's alone.
  static Permissions permissions(bool writable);
  // After connect().
  void start(bool writable);

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;
  Task<Result<void>> reopen(bool writable) override;
  Task<Result<void>> close() override;
  void cancel() override;
  int try_read(uint64_t offset, Buffers to) override { return child_->try_read(offset, to); }
  int try_write(uint64_t offset, Buffers from) override;

  uint64_t size() const override { return writable_ ? data_end_.load() : child_->size(); }
  bool read_only() const override { return !writable_; }
  nlohmann::json options() const override;

 private:
  template <class Request>
  Task<int> change(uint64_t end, Request request);
  Task<int> reserve(uint64_t end);
  void changed(uint64_t end, int error);
  Task<Result<void>> cut();

  const uint64_t align_, reserve_;
  bool writable_ = false;              // changed while drained
  std::atomic<bool> cannot_{false};    // the file has no way to reserve
  std::atomic<uint64_t> data_end_{0};  // bytes; of a writable one
  // Writers share it; who changes the file's length by another way than writing has it alone.
  SharedMutex length_;
  std::atomic<unsigned> cancels_{0};  // those that wait for length_ look
};

}  // namespace ostler::block
