// The protocol node "file" (and "host_device"): a regular file or a block device of the host.
//
// Buffered or, with `direct`, past the host's page cache (O_DIRECT); requests that O_DIRECT does not take as
// they are go through a bounce buffer. flush is fdatasync.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "base/fd.h"
#include "block/io_context.h"
#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {

struct FileOptions {
  std::string path;
  bool read_only = false;
  // Locks the image against other programs that write it, at the byte offsets where QEMU does.
  bool locking = true;
  bool force_share = false;  // reads whatever others do to it
  bool direct = false;       // O_DIRECT
  bool no_flush = false;     // flushes do nothing
  bool unmap = true;         // discards reach the file
  Aio aio = Aio::kIoUring;
};

class FileNode final : public Node {
 public:
  // Errors name the file and the cure: missing, a directory, not writable (kPermission), locked (kBusy).
  static Result<std::shared_ptr<FileNode>> open(const FileOptions& options);
  // For nodes that keep data in a file of their own (temporary overlays).
  FileNode(FileOptions options, Fd fd, uint64_t size, bool is_device);
  ~FileNode() override;

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override;
  Task<Result<void>> close() override;
  Task<Result<void>> reopen(bool writable) override;
  int try_read(uint64_t offset, Buffers to) override;
  int try_write(uint64_t offset, Buffers from) override;

  uint64_t size() const override { return size_.load(std::memory_order_relaxed); }
  bool read_only() const override { return options_.read_only; }
  Limits limits() const override { return {.request_alignment = direct_alignment_}; }
  bool new_space_is_zero() const override { return !is_device_; }
  bool is_protocol() const override { return true; }
  std::string filename() const override { return options_.path; }
  nlohmann::json options() const override;
  int64_t allocated_bytes() const override;

 private:
  // What O_DIRECT asks of offset, length and memory.
  IoRequest by_choice(IoRequest request) const;  // through the ring or by a worker
  bool suits_direct(uint64_t offset, Buffers buffers) const;
  Task<int> read_pieces(uint64_t offset, Buffers to);
  Task<int> write_pieces(uint64_t offset, Buffers from);
  Task<int> write_buffered(uint64_t offset, Buffers from, uint64_t end);
  int write_now(uint64_t offset, Buffers from);
  bool worth_reserving(uint64_t end) const;
  Task<int> write_reserved(uint64_t offset, Buffers from);
  Task<int> read_bounced(uint64_t offset, Buffers to);
  Task<int> write_bounced(uint64_t offset, Buffers from);
  Task<int> fill_with_zeroes(uint64_t offset, uint64_t bytes);
  void grown_to(uint64_t end);
  int make_room(uint64_t end);
  // Around a buffered write: true if it may make the file longer.
  bool begin_extending(uint64_t end);
  void end_extending(uint64_t end, int error);
  int cut_to(uint64_t size);

  FileOptions options_;
  Fd fd_;
  std::atomic<uint64_t> size_;
  const bool is_device_;
  uint32_t direct_alignment_ = 1;    // 1 without O_DIRECT
  std::atomic<int> flush_error_{0};  // the first one: the kernel forgets which pages it lost
  // Known not to work on this file.
  std::atomic<bool> no_punch_{false}, no_zero_range_{false}, no_nowait_{false};
  std::atomic<bool> reserving_{false};  // long buffered writes get their blocks first
  std::mutex reserved_writes_;
  Mutex unaligned_;                   // read-modify-write of O_DIRECT
  std::atomic<unsigned> writing_{0};  // buffered writes that the ring or a worker makes
  std::mutex growing_;
  unsigned extending_ = 0;      // buffered writes under way beyond room_; under growing_
  std::atomic<uint64_t> room_;  // the host file is at least that long; written under growing_
};

}  // namespace ostler::block
