// A raw image: a regular file or a block device. Buffered I/O; flush is fdatasync.
#pragma once

#include <atomic>
#include <memory>

#include "base/fd.h"
#include "base/result.h"
#include "block/blocking_node.h"

namespace ostler::block {

struct FileOptions {
  std::string path;
  bool read_only = false;
  // Locks the image against other programs that write it, at the byte offsets where QEMU does.
  bool locking = true;
};

class FileNode final : public BlockingNode {
 public:
  // Errors name the file and the cure: missing, a directory, not writable (kPermission), locked (kBusy).
  static Result<std::shared_ptr<FileNode>> open(WorkerPool& pool, const FileOptions& options);

  const std::string& name() const override { return path_; }
  uint64_t size() const override { return size_; }
  bool read_only() const override { return read_only_; }

  int read_now(uint64_t offset, std::span<const iovec> iov, bool wait) override;
  int write_now(uint64_t offset, std::span<const iovec> iov, bool wait) override;
  int flush_now() override;
  int discard_now(uint64_t offset, uint64_t length) override;
  int write_zeroes_now(uint64_t offset, uint64_t length, bool may_unmap) override;

  // For nodes that keep data in a file of their own (temporary overlays).
  FileNode(WorkerPool& pool, std::string path, Fd fd, uint64_t size, bool read_only)
      : BlockingNode(pool), path_(std::move(path)), fd_(std::move(fd)), size_(size), read_only_(read_only) {}

 private:
  const std::string path_;
  const Fd fd_;
  const uint64_t size_;  // of the file, rounded up to sectors
  const bool read_only_;
  std::atomic<int> flush_error_{0};  // the first one: the kernel forgets which pages it lost
};

}  // namespace ostler::block
