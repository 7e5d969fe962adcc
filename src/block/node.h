// A disk as its users see it: bytes at offsets, asynchronously. Formats, filters and files implement it; they
// nest.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace ostler::block {

// 0, or a positive errno.
using Done = std::function<void(int error)>;

// All members from any thread, any number of requests at once. `done` is called once, on any thread, possibly
// before the call returns; never with a lock of the node held. Memory in `iov` stays valid until then.
// Requests lie within [0, size()): the caller checks. No order holds among requests in flight; a flush covers
// what was done before it was issued.
class Node {
 public:
  virtual ~Node() = default;
  virtual const std::string& name() const = 0;  // for messages
  virtual uint64_t size() const = 0;            // bytes, a multiple of 512
  virtual bool read_only() const = 0;

  virtual void read(uint64_t offset, std::vector<iovec> iov, Done done) = 0;
  virtual void write(uint64_t offset, std::vector<iovec> iov, Done done) = 0;
  // Everything acknowledged so far is on stable storage when it is done without error.
  virtual void flush(Done done) = 0;
  // The content becomes unspecified; space may be given back.
  virtual void discard(uint64_t offset, uint64_t length, Done done) = 0;
  // `may_unmap`: giving the space back is welcome.
  virtual void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) = 0;
  // Runs `task` on a thread that may wait, for users with more to do than their own thread should.
  virtual void defer(std::function<void()> task) = 0;
};

uint64_t total_bytes(std::span<const iovec> iov);

}  // namespace ostler::block
