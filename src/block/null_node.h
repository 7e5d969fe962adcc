// A disk of zeros that forgets what is written: for measurements and tests.
#pragma once

#include <cstring>

#include "block/blocking_node.h"

namespace ostler::block {

class NullNode final : public BlockingNode {
 public:
  NullNode(WorkerPool& pool, uint64_t size, bool read_only = false)
      : BlockingNode(pool), size_(size), read_only_(read_only) {}

  const std::string& name() const override { return name_; }
  uint64_t size() const override { return size_; }
  bool read_only() const override { return read_only_; }
  int read_now(uint64_t, std::span<const iovec> iov, bool) override {
    for (const iovec& piece : iov) std::memset(piece.iov_base, 0, piece.iov_len);
    return 0;
  }
  int write_now(uint64_t, std::span<const iovec>, bool) override { return 0; }
  int flush_now() override { return 0; }
  int discard_now(uint64_t, uint64_t) override { return 0; }
  int write_zeroes_now(uint64_t, uint64_t, bool) override { return 0; }

 private:
  const std::string name_ = "null-co";
  const uint64_t size_;
  const bool read_only_;
};

}  // namespace ostler::block
