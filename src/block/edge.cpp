#include "block/edge.h"

#include <algorithm>

#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {
namespace {

// Those who drain wait here for any client to become idle: parents come and go meanwhile.
struct IdleWait {
  std::mutex mutex;
  uint64_t told = 0;
  WaitQueue queue;
};
IdleWait& idle_wait() {
  static IdleWait wait;
  return wait;
}

}  // namespace

std::recursive_mutex& graph_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

void tell_idle() {
  const std::lock_guard lock(idle_wait().mutex);
  ++idle_wait().told;
  idle_wait().queue.wake_all();
}

std::string permission_names(PermissionMask mask) {
  static constexpr std::pair<PermissionMask, const char*> kNames[] = {
      {kPermissionRead, "read"},
      {kPermissionWrite, "write"},
      {kPermissionWriteUnchanged, "write unchanged content"},
      {kPermissionResize, "resize"}};
  std::string names;
  for (const auto& [bit, name] : kNames)
    if ((mask & bit) != 0) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

Result<Edge> Edge::attach(Parent& parent, NodePtr child, std::string name, Role role,
                          Permissions permissions) {
  Edge edge;
  edge.use_ = std::make_unique<Use>(Use{&parent, std::move(name), role, permissions, &edge});
  const std::lock_guard lock(graph_mutex());
  TRY(child->admit(*edge.use_, nullptr));
  child->uses_.push_back(edge.use_.get());
  for (unsigned i = 0; i < child->drains_; ++i) parent.drain_begin();
  edge.node_ = std::move(child);
  return edge;
}

Edge::Edge(Edge&& other) noexcept {
  *this = std::move(other);
}

Edge& Edge::operator=(Edge&& other) noexcept {
  if (this == &other) return *this;
  const std::lock_guard lock(graph_mutex());
  detach();
  node_ = std::move(other.node_);
  use_ = std::move(other.use_);
  if (use_) use_->edge = this;
  return *this;
}

void Edge::detach() {
  // Before the first look: move_users() changes edges from other threads.
  const std::lock_guard lock(graph_mutex());
  if (!node_) return;
  std::erase(node_->uses_, use_.get());
  for (unsigned i = 0; i < node_->drains_; ++i) use_->parent->drain_end();
  node_ = nullptr;
  use_ = nullptr;
}

Result<void> Edge::set_permissions(Permissions permissions) {
  const std::lock_guard lock(graph_mutex());
  Use wanted = *use_;
  wanted.permissions = permissions;
  TRY(node_->admit(wanted, use_.get()));
  use_->permissions = permissions;
  return {};
}

Result<void> Edge::replace(NodePtr child) {
  TRY_ASSIGN(Edge next, attach(*use_->parent, std::move(child), use_->name, use_->role, use_->permissions));
  *this = std::move(next);
  return {};
}

Result<void> Edge::move_users(const NodePtr& from, const NodePtr& to, std::span<const Parent* const> stay,
                              std::span<const Parent* const> leaving) {
  const std::lock_guard lock(graph_mutex());
  std::vector<Use*> moving;
  for (Use* use : from->uses_)
    if (std::ranges::find(stay, use->parent) == stay.end()) moving.push_back(use);
  for (const Use* use : moving) TRY(to->admit(*use, nullptr, leaving));
  const bool other_size = from->size() != to->size();
  for (Use* use : moving) {
    to->uses_.push_back(use);
    for (unsigned i = 0; i < to->drains_; ++i) use->parent->drain_begin();
    std::erase(from->uses_, use);
    for (unsigned i = 0; i < from->drains_; ++i) use->parent->drain_end();
    use->edge->node_ = to;
  }
  if (other_size)
    for (const Use* use : moving) use->parent->resized();
  return {};
}

Task<Drained> Drained::begin(NodePtr node) {
  node->drain_begin();
  IdleWait& wait = idle_wait();
  for (;;) {
    std::unique_lock lock(wait.mutex);
    const uint64_t told = wait.told;
    lock.unlock();
    if (!node->busy()) break;
    lock.lock();
    while (wait.told == told) co_await wait.queue.wait(lock);
  }
  Drained drained(std::move(node));
  co_return drained;
}

void Drained::end() {
  if (node_) std::exchange(node_, nullptr)->drain_end();
}

}  // namespace ostler::block
