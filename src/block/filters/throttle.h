// I/O throttling: groups share limits, the filter "throttle" holds requests until their group lets them go.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "block/filters/filter.h"
#include "block/filters/token_bucket.h"

namespace ostler::block {

struct ThrottleLimits {
  // Requests or bytes: of any kind, reads, writes.
  std::array<BucketLimits, 3> operations, bytes;
  uint64_t operation_bytes = 0;  // a request counts once per so many bytes; 0: once
};

// Keys as QEMU's throttle-group has them without "x-": "iops-total", "bps-read-max", "bps-write-max-length",
// "iops-size", ….
Result<ThrottleLimits> throttle_limits(nlohmann::json options, const std::string& where);

// Any thread. First come, first served.
class ThrottleGroup {
 public:
  // The group of that name, which lives as long as somebody holds it; made if there is none.
  static std::shared_ptr<ThrottleGroup> get(const std::string& name);
  // The same of one that there must be. kNotFound begins with `option`, which named it, and ends with `cure`.
  static Result<std::shared_ptr<ThrottleGroup>> find(const std::string& name, std::string_view option,
                                                     std::string_view cure);
  void set_limits(const ThrottleLimits& limits);
  // Books a request and tells the time (IoContext::now()) when it may begin.
  uint64_t book(bool is_write, uint64_t bytes);

 private:
  std::mutex mutex_;
  std::array<TokenBucket, 3> operations_, bytes_;
  uint64_t operation_bytes_ = 0;
  std::array<uint64_t, 2> last_start_{};  // of reads, of writes
};

class ThrottleNode final : public FilterNode {
 public:
  explicit ThrottleNode(std::shared_ptr<ThrottleGroup> group)
      : FilterNode("throttle", "file"), group_(std::move(group)) {}
  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  // Requests that wait end at their next look, within a tenth of a second.
  void cancel() override;
  ThrottleGroup& group() { return *group_; }

 private:
  Task<int> pass(bool is_write, uint64_t bytes);
  const std::shared_ptr<ThrottleGroup> group_;
  std::atomic<unsigned> cancels_{0};
};

}  // namespace ostler::block
