// A user of the graph: a device's disk, a job, an export, a tool. Requests enter the graph here, so this is
// where they are checked, counted and, while the graph is drained, held back.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {

// All members from any thread; the coroutines on an I/O context.
class Client final : public Parent {
 public:
  static Result<std::shared_ptr<Client>> attach(NodePtr node, std::string name, Permissions permissions);
  explicit Client(std::string name) : name_(std::move(name)) {}

  // -EINVAL beyond the end, -EPERM without the permission, -EROFS on a read-only node; else the node's
  // answer.
  Task<int> read(uint64_t offset, Buffers to);
  Task<int> write(uint64_t offset, Buffers from);
  Task<int> write_compressed(uint64_t offset, Buffers from);
  Task<int> flush();
  Task<int> discard(uint64_t offset, uint64_t bytes);
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags);  // writes zeros if it must
  // Where in the chain below the content comes from (chain_status()).
  Task<int> status(uint64_t offset, uint64_t bytes, StatusDetail detail, ChainStatus& result);
  // The same as the requests, at once or -EAGAIN, without a context.
  int try_read(uint64_t offset, Buffers to);
  int try_write(uint64_t offset, Buffers from);

  // Rounded up to sectors of 512 bytes, as guests see a disk. While the graph is drained: as it was before.
  uint64_t size() const;
  bool read_only() const;
  // Callers see to it that the edge does not change meanwhile: within a request, or with graph_mutex() held.
  const NodePtr& node() const { return edge_.node(); }
  Edge& edge() { return edge_; }
  // Each write is flushed before it is done.
  void set_writethrough(bool on) { writethrough_ = on; }
  bool writethrough() const { return writethrough_; }
  void on_resize(std::function<void()> handler) { on_resize_ = std::move(handler); }

  // A request of several steps, made of the node directly by a user that checks for itself: it counts as one
  // while this lives. A drain waits for its end; holding it while draining is a deadlock.
  class [[nodiscard]] Pass {
   public:
    Pass() = default;
    explicit Pass(Client* client) : client_(client) {}
    Pass(Pass&& other) noexcept : client_(std::exchange(other.client_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      end();
      client_ = std::exchange(other.client_, nullptr);
      return *this;
    }
    ~Pass() { end(); }
    void end() {
      if (Client* const client = std::exchange(client_, nullptr)) client->leave();
    }

   private:
    Client* client_ = nullptr;
  };
  Task<Pass> pass();

  const std::string& parent_name() const override { return name_; }
  void drain_begin() override;
  void drain_end() override;
  bool busy() const override { return in_flight_.load() != 0; }
  void resized() override {
    if (on_resize_) on_resize_();
  }

 private:
  bool try_enter() const;
  void leave() const;
  uint64_t size_now() const;
  Task<void> enter();
  int check(uint64_t offset, uint64_t bytes, PermissionMask permission) const;
  template <class Request>
  Task<int> run(uint64_t offset, uint64_t bytes, PermissionMask permission, Request request);

  const std::string name_;
  Edge edge_;
  std::atomic<bool> writethrough_{false};
  std::function<void()> on_resize_;
  mutable std::atomic<uint64_t> in_flight_{0};
  std::atomic<unsigned> drains_{0};
  mutable std::atomic<uint64_t> size_before_drain_{0};
  mutable std::atomic<bool> read_only_before_drain_{false};
  std::mutex mutex_;
  WaitQueue held_back_;  // of mutex_
};

}  // namespace ostler::block
