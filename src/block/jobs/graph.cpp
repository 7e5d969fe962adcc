#include "block/jobs/graph.h"

#include <filesystem>

#include "block/open.h"

namespace ostler::block {
namespace {

constexpr Permissions kNothing = {.used = 0, .shared = kPermissionsAll};

std::vector<const Parent*> parents_of(const Node& node) {
  std::vector<const Parent*> parents;
  for (const Edge::Use& use : node.uses()) parents.push_back(use.parent);
  return parents;
}

}  // namespace

Task<Result<void>> insert_filter(std::shared_ptr<FilterNode> filter, NodePtr below, Permissions permissions,
                                 std::vector<const Parent*> stay) {
  const Drained drained = co_await Drained::begin(below);
  CO_TRY(filter->connect(below, kNothing));
  stay.push_back(filter.get());
  auto result = Edge::move_users(below, filter, stay);
  // Only now is the filter alone with those who stay.
  if (result) {
    result = filter->child_edge().set_permissions(permissions);
    if (!result) {
      const std::vector<const Parent*> leaving = parents_of(*below);
      static_cast<void>(Edge::move_users(filter, below, {}, leaving));
    }
  }
  if (!result) filter->child_edge().detach();
  co_return result;
}

Task<void> remove_filter(std::shared_ptr<FilterNode> filter) {
  const NodePtr below = filter->child_edge().node();
  if (!below) co_return;
  const Drained drained = co_await Drained::begin(below);
  const std::vector<const Parent*> leaving = parents_of(*below);
  static_cast<void>(Edge::move_users(filter, below, {}, leaving));
  filter->child_edge().detach();
}

Result<void> share_writes(const NodePtr& node, bool on) {
  constexpr PermissionMask kWrites = kPermissionWrite | kPermissionResize;
  const std::lock_guard lock(graph_mutex());
  for (const Edge::Use& use : node->uses()) {
    if (use.role != Role::kBacking) continue;
    Permissions permissions = use.permissions;
    permissions.shared = on ? permissions.shared | kWrites : permissions.shared & ~kWrites;
    TRY(use.edge->set_permissions(permissions));
  }
  return {};
}

Task<void> release_chain(NodePtr node) {
  if (!node || !node->uses().empty() || node.use_count() != 1) co_return;
  const auto closed = co_await close_chain(std::move(node));
  static_cast<void>(closed);  // it was only read
}

std::vector<NodePtr> nodes_of_chain(const NodePtr& top, const NodePtr& base) {
  std::vector<NodePtr> nodes;
  const NodePtr end = skip_filters(base);
  for (NodePtr node = top; node && node != base && node != end;) {
    nodes.push_back(node);
    NodePtr below = node->filtered();
    node = below ? std::move(below) : node->backing();
  }
  return nodes;
}

NodePtr overlay_of(const NodePtr& top, const NodePtr& image) {
  const NodePtr wanted = skip_filters(image);
  for (NodePtr node = skip_filters(top); node; node = next_in_chain(node))
    if (next_in_chain(node) == wanted) return node;
  return nullptr;
}

bool in_chain(const NodePtr& top, const NodePtr& image) {
  const NodePtr wanted = skip_filters(image);
  NodePtr node = skip_filters(top);
  while (node && node != wanted) node = next_in_chain(node);
  return node != nullptr;
}

std::string backing_name(const NodePtr& node) {
  std::string name = skip_filters(node)->filename();
  if (name.starts_with("json:") || name.find("://") != std::string::npos) return name;
  std::error_code error;
  const auto whole = std::filesystem::absolute(name, error);
  return error ? name : whole.string();
}

Task<Result<void>> change_backing(NodePtr image, NodePtr next, std::string name) {
  const std::string old_name = image->backing_file_name(), old_format = image->backing_file_format();
  std::string format;
  if (next) format = skip_filters(next)->driver();
  CO_TRY(co_await image->change_backing_file(name, format));
  auto attached = image->set_backing(std::move(next));
  if (!attached) {
    const auto undone = co_await image->change_backing_file(old_name, old_format);
    static_cast<void>(undone);
  }
  co_return attached;
}

}  // namespace ostler::block
