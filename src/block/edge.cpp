#include "block/edge.h"

#include "block/node.h"

namespace ostler::block {

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
  edge.use_ = std::make_unique<Use>(Use{&parent, std::move(name), role, permissions});
  TRY(child->admit(*edge.use_, nullptr));
  unsigned drains;
  {
    const std::lock_guard lock(child->uses_mutex_);
    child->uses_.push_back(edge.use_.get());
    drains = child->drains_;
  }
  for (unsigned i = 0; i < drains; ++i) parent.drain_begin();
  edge.node_ = std::move(child);
  return edge;
}

Edge& Edge::operator=(Edge&& other) noexcept {
  if (this != &other) {
    detach();
    node_ = std::move(other.node_);
    use_ = std::move(other.use_);
  }
  return *this;
}

void Edge::detach() {
  if (!node_) return;
  unsigned drains;
  {
    const std::lock_guard lock(node_->uses_mutex_);
    std::erase(node_->uses_, use_.get());
    drains = node_->drains_;
  }
  for (unsigned i = 0; i < drains; ++i) use_->parent->drain_end();
  node_ = nullptr;
  use_ = nullptr;
}

Result<void> Edge::set_permissions(Permissions permissions) {
  Use wanted = *use_;
  wanted.permissions = permissions;
  TRY(node_->admit(wanted, use_.get()));
  const std::lock_guard lock(node_->uses_mutex_);
  use_->permissions = permissions;
  return {};
}

Result<void> Edge::replace(NodePtr child) {
  TRY_ASSIGN(Edge next, attach(*use_->parent, std::move(child), use_->name, use_->role, use_->permissions));
  *this = std::move(next);
  return {};
}

Task<Drained> Drained::begin(NodePtr node) {
  node->drain_begin();
  co_await node->idle();
  co_return Drained(std::move(node));
}

void Drained::end() {
  if (node_) std::exchange(node_, nullptr)->drain_end();
}

}  // namespace ostler::block
