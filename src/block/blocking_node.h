// A node made of system calls that may wait: tries to finish at once on the caller's thread, else uses a
// worker.
#pragma once

#include "block/node.h"
#include "block/worker_pool.h"

namespace ostler::block {

class BlockingNode : public Node {
 public:
  explicit BlockingNode(WorkerPool& pool) : pool_(pool) {}

  void read(uint64_t offset, std::vector<iovec> iov, Done done) final;
  void write(uint64_t offset, std::vector<iovec> iov, Done done) final;
  void flush(Done done) final;
  void discard(uint64_t offset, uint64_t length, Done done) final;
  void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) final;
  void defer(std::function<void()> task) final { pool_.run(std::move(task)); }

  // The work itself: 0 or errno, whole requests only. Any thread, several at once. With `wait` false: EAGAIN,
  // nothing done that repeating would not do again, when it cannot be finished at once.
  virtual int read_now(uint64_t offset, std::span<const iovec> iov, bool wait) = 0;
  virtual int write_now(uint64_t offset, std::span<const iovec> iov, bool wait) = 0;
  virtual int flush_now() = 0;
  virtual int discard_now(uint64_t offset, uint64_t length) = 0;
  virtual int write_zeroes_now(uint64_t offset, uint64_t length, bool may_unmap) = 0;

 private:
  WorkerPool& pool_;
};

}  // namespace ostler::block
