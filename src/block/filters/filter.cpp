#include "block/filters/filter.h"

namespace ostler::block {

FilterNode::FilterNode(std::string driver, std::string child_name)
    : Node(std::move(driver)), child_name_(std::move(child_name)) {}

Result<void> FilterNode::connect(NodePtr child, Permissions permissions) {
  TRY_ASSIGN(child_, Edge::attach(*this, std::move(child), child_name_, Role::kFiltered, permissions));
  return {};
}

Permissions pass_through_permissions(bool writable) {
  return {.used = writable ? kPermissionRead | kPermissionWrite : kPermissionRead, .shared = kPermissionsAll};
}

}  // namespace ostler::block
