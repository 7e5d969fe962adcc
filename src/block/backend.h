// A disk as devices hold it: requests from any thread, told when they are done by a call.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/client.h"

namespace ostler::block {

// 0, or a positive errno.
using Done = std::function<void(int error)>;

// What the user wants to happen when a request fails. kEnospc: kStop when the host has no room, else kReport.
enum class ErrorAction : uint8_t { kReport, kIgnore, kStop, kEnospc };
// What a device does with a failed request: fail it, pretend it succeeded, or keep it and send it again when
// the handler given to on_resume() is called. Once it has the request in its list, it calls pause_guest().
enum class Verdict : uint8_t { kReport, kIgnore, kKeep };

// All members from any thread, any number of requests at once. `done` is called once, on any thread, possibly
// before the call returns; never with a lock of the disk held. Memory in `iov` stays valid until then.
// Requests lie within [0, size()): the caller checks. No order holds among requests in flight; a flush covers
// what was done before it was issued.
class Backend {
 public:
  virtual ~Backend() = default;
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

  // Completed writes are on stable storage without a flush.
  virtual bool writes_through() const { return false; }
  // Of a request that failed with `error` (not 0).
  virtual Verdict judge(bool /*is_read*/, int /*error*/) { return Verdict::kReport; }
  virtual void pause_guest(int /*error*/) {}  // soon, on the machine's thread
  // Handlers, set before the guest runs: the guest goes on, on the machine's thread; size() has changed, on
  // any thread.
  virtual void on_resume(std::function<void()> /*handler*/) {}
  virtual void on_resize(std::function<void()> /*handler*/) {}
};

// What a disk does about errors. Several backends of one disk share it.
struct ErrorPolicy {
  ErrorAction read = ErrorAction::kReport, write = ErrorAction::kEnospc;
  // Asks for the guest to be paused, on any thread. Null: kStop and kEnospc are kReport.
  std::function<void(int error)> stop = {};
};

// A disk that is a node of the block graph. What the node can do at once is done on the caller's thread, the
// rest on an I/O context. The owner sees to it that no request is in flight when it goes.
class NodeBackend final : public Backend {
 public:
  NodeBackend(std::shared_ptr<Client> client, IoContext& context, ErrorPolicy policy = {});

  const std::string& name() const override { return name_; }
  uint64_t size() const override { return client_->size(); }
  bool read_only() const override { return client_->read_only(); }
  void read(uint64_t offset, std::vector<iovec> iov, Done done) override;
  void write(uint64_t offset, std::vector<iovec> iov, Done done) override;
  void flush(Done done) override;
  void discard(uint64_t offset, uint64_t length, Done done) override;
  void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) override;
  void defer(std::function<void()> task) override;
  bool writes_through() const override { return client_->writethrough(); }
  Verdict judge(bool is_read, int error) override;
  void pause_guest(int error) override { policy_.stop(error); }
  void on_resume(std::function<void()> handler) override { on_resume_ = std::move(handler); }
  void on_resize(std::function<void()> handler) override { client_->on_resize(std::move(handler)); }
  // The guest goes on.
  void resumed() const {
    if (on_resume_) on_resume_();
  }
  Client& client() { return *client_; }

 private:
  const std::shared_ptr<Client> client_;
  IoContext& context_;
  const std::string name_;
  const ErrorPolicy policy_;
  std::function<void()> on_resume_;
};

}  // namespace ostler::block
