#include "block/blocking_node.h"

#include <cerrno>

namespace ostler::block {

uint64_t total_bytes(std::span<const iovec> iov) {
  uint64_t bytes = 0;
  for (const iovec& piece : iov) bytes += piece.iov_len;
  return bytes;
}

void BlockingNode::read(uint64_t offset, std::vector<iovec> iov, Done done) {
  if (const int error = read_now(offset, iov, false); error != EAGAIN) return done(error);
  pool_.run(
      [this, offset, iov = std::move(iov), done = std::move(done)] { done(read_now(offset, iov, true)); });
}

void BlockingNode::write(uint64_t offset, std::vector<iovec> iov, Done done) {
  if (const int error = write_now(offset, iov, false); error != EAGAIN) return done(error);
  pool_.run(
      [this, offset, iov = std::move(iov), done = std::move(done)] { done(write_now(offset, iov, true)); });
}

void BlockingNode::flush(Done done) {
  pool_.run([this, done = std::move(done)] { done(flush_now()); });
}

void BlockingNode::discard(uint64_t offset, uint64_t length, Done done) {
  pool_.run([this, offset, length, done = std::move(done)] { done(discard_now(offset, length)); });
}

void BlockingNode::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) {
  pool_.run([this, offset, length, may_unmap, done = std::move(done)] {
    done(write_zeroes_now(offset, length, may_unmap));
  });
}

}  // namespace ostler::block
