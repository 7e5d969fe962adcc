#include "block/client.h"

namespace ostler::block {

Result<std::shared_ptr<Client>> Client::attach(NodePtr node, std::string name, Permissions permissions) {
  auto client = std::make_shared<Client>(std::move(name));
  const std::lock_guard lock(graph_mutex());  // its edge may be moved as soon as it is there
  TRY_ASSIGN(client->edge_, Edge::attach(*client, std::move(node), "root", Role::kUser, permissions));
  client->size_before_drain_ = client->size_now();
  client->read_only_before_drain_ = client->edge_->read_only();
  return client;
}

bool Client::try_enter() const {
  in_flight_.fetch_add(1);
  if (drains_.load() == 0) return true;
  leave();
  return false;
}

void Client::leave() const {
  if (in_flight_.fetch_sub(1) == 1 && drains_.load() != 0) tell_idle();
}

uint64_t Client::size_now() const {
  return (edge_->size() + 511) / 512 * 512;
}

uint64_t Client::size() const {
  if (!try_enter()) return size_before_drain_.load();
  const uint64_t size = size_now();
  size_before_drain_.store(size, std::memory_order_relaxed);
  leave();
  return size;
}

bool Client::read_only() const {
  if (!try_enter()) return read_only_before_drain_.load();
  const bool is = edge_->read_only();
  read_only_before_drain_.store(is, std::memory_order_relaxed);
  leave();
  return is;
}

Task<Client::Pass> Client::pass() {
  if (!try_enter()) co_await enter();
  co_return Pass(this);
}

Task<void> Client::enter() {
  while (!try_enter()) {
    std::unique_lock lock(mutex_);
    while (drains_.load() != 0) co_await held_back_.wait(lock);
  }
}

void Client::drain_begin() {
  drains_.fetch_add(1);
}

void Client::drain_end() {
  const std::lock_guard lock(mutex_);
  if (drains_.fetch_sub(1) == 1) held_back_.wake_all();
}

int Client::check(uint64_t offset, uint64_t bytes, PermissionMask permission) const {
  const uint64_t end = size_now();
  if (offset > end || bytes > end - offset) return -EINVAL;
  if ((edge_.permissions().used & permission) == 0) return -EPERM;
  return permission == kPermissionWrite && edge_->read_only() ? -EROFS : 0;
}

template <class Request>
Task<int> Client::run(uint64_t offset, uint64_t bytes, PermissionMask permission, Request request) {
  if (!try_enter()) co_await enter();
  int result = check(offset, bytes, permission);
  if (result == 0) result = co_await request(*edge_);
  if (result == 0 && permission == kPermissionWrite && writethrough_) result = co_await edge_->flush();
  leave();
  co_return result;
}

Task<int> Client::read(uint64_t offset, Buffers to) {
  return run(offset, total_bytes(to), kPermissionRead, [=](Node& node) { return node.read(offset, to); });
}

Task<int> Client::write(uint64_t offset, Buffers from) {
  return run(offset, total_bytes(from), kPermissionWrite, [=](Node& node) {
    const DetectZeroes detect = node.detect_zeroes();
    if (detect == DetectZeroes::kOff || !all_zeroes(from)) return node.write(offset, from);
    return write_zeroes_anyhow(node, offset, total_bytes(from),
                               {.may_unmap = detect == DetectZeroes::kUnmap});
  });
}

Task<int> Client::write_compressed(uint64_t offset, Buffers from) {
  return run(offset, total_bytes(from), kPermissionWrite,
             [=](Node& node) { return node.write_compressed(offset, from); });
}

Task<int> Client::flush() {
  return run(0, 0, kPermissionsAll, [](Node& node) { return node.flush(); });
}

Task<int> Client::discard(uint64_t offset, uint64_t bytes) {
  return run(offset, bytes, kPermissionWrite, [=](Node& node) { return node.discard(offset, bytes); });
}

Task<int> Client::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  return run(offset, bytes, kPermissionWrite,
             [=](Node& node) { return write_zeroes_anyhow(node, offset, bytes, flags); });
}

Task<int> Client::status(uint64_t offset, uint64_t bytes, StatusDetail detail, ChainStatus& result) {
  return run(offset, bytes, kPermissionRead, [=, &result](Node& node) {
    return chain_status(node.shared_from_this(), nullptr, offset, bytes, detail, result);
  });
}

int Client::try_read(uint64_t offset, Buffers to) {
  if (!try_enter()) return -EAGAIN;
  int result = check(offset, total_bytes(to), kPermissionRead);
  if (result == 0) result = edge_->try_read(offset, to);
  leave();
  return result;
}

int Client::try_write(uint64_t offset, Buffers from) {
  if (writethrough_ || !try_enter()) return -EAGAIN;
  if (edge_->detect_zeroes() != DetectZeroes::kOff && all_zeroes(from)) {
    leave();
    return -EAGAIN;
  }
  int result = check(offset, total_bytes(from), kPermissionWrite);
  if (result == 0) result = edge_->try_write(offset, from);
  leave();
  return result;
}

}  // namespace ostler::block
