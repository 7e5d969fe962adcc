// The format "raw": the bytes of the file, or a window of them (offset, size).
#pragma once

#include <atomic>
#include <optional>

#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {

class RawNode final : public Node {
 public:
  static Result<std::shared_ptr<RawNode>> create(NodePtr file, bool read_only, uint64_t offset,
                                                 std::optional<uint64_t> size);
  RawNode(bool read_only, uint64_t offset, std::optional<uint64_t> size);

  // Its format was guessed from its content: writes that would make it look like another format are refused
  // (-EPERM). Before the first request.
  void keep_format() { keeps_format_ = true; }

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override { return file_->flush(); }
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;
  Task<Result<void>> reopen(bool writable) override;
  int try_read(uint64_t offset, Buffers to) override { return file_->try_read(offset_ + offset, to); }
  int try_write(uint64_t offset, Buffers from) override;

  // Whole sectors of 512 bytes: what a file lacks at its end reads as zeros.
  uint64_t size() const override;
  bool read_only() const override { return read_only_; }
  Limits limits() const override { return file_->limits(); }
  bool new_space_is_zero() const override { return file_->new_space_is_zero(); }
  nlohmann::json options() const override;
  std::vector<const Edge*> children() const override { return {&file_}; }

 private:
  // Of bytes of the file. Whether a change there may change what it is taken for.
  bool is_probed(uint64_t offset, uint64_t bytes) const;
  Task<int> check_format(uint64_t offset, uint64_t bytes, const Buffers* from);
  bool is_window() const { return offset_ != 0 || window_.has_value(); }
  bool read_only_;
  const uint64_t offset_;
  const std::optional<uint64_t> window_;
  bool keeps_format_ = false;
  std::atomic<bool> told_{false};  // that a write was refused
  Mutex changing_;                 // what is probed: one change at a time
  Edge file_;
};

}  // namespace ostler::block
