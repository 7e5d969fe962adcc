// The protocol "null-co" (and "null-aio"): a disk of zeros that forgets what is written, for measurements and
// tests.
#pragma once

#include "block/node.h"

namespace ostler::block {

class NullNode final : public Node {
 public:
  explicit NullNode(uint64_t size, bool read_only = false, bool read_zeroes = true,
                    uint64_t latency_nanoseconds = 0, std::string driver = "null-co");

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  int try_read(uint64_t offset, Buffers to) override;
  int try_write(uint64_t offset, Buffers from) override;

  uint64_t size() const override { return size_; }
  bool read_only() const override { return read_only_; }
  bool is_protocol() const override { return true; }
  std::string filename() const override { return driver() + "://"; }
  nlohmann::json options() const override;
  int64_t allocated_bytes() const override { return 0; }

 private:
  Task<int> answer();
  const uint64_t size_;
  const bool read_only_, read_zeroes_;
  const uint64_t latency_;
};

}  // namespace ostler::block
