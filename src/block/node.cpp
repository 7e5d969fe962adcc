#include "block/node.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace ostler::block {
namespace {

Error unsupported(const Node& node, std::string_view what) {
  return Error(ErrorKind::kUnsupported,
               fmt::format("{}: the format '{}' cannot {}", node.filename(), node.driver(), what), ENOTSUP);
}

}  // namespace

Task<int> Node::discard(uint64_t, uint64_t) {
  co_return 0;
}

Task<int> Node::write_compressed(uint64_t, Buffers) {
  co_return -ENOTSUP;
}

Task<int> Node::block_status(uint64_t offset, uint64_t bytes, StatusDetail, BlockStatus& status) {
  status = {.bytes = bytes,
            .data = true,
            .allocated = true,
            .offset_valid = is_protocol(),
            .offset = offset,
            .file = this};
  co_return 0;
}

Task<Result<void>> Node::truncate(uint64_t, Preallocation) {
  co_return Error(
      ErrorKind::kUnsupported,
      fmt::format("{}: images of the format '{}' keep the size that they were made with; convert it "
                  "to another, such as qcow2, and resize that",
                  filename(), driver()),
      ENOTSUP);
}

Task<Result<void>> Node::close() {
  co_return Result<void>();
}

void Node::cancel() {
  for (const Edge* edge : children()) (*edge)->cancel();
}

std::string Node::filename() const {
  if (const NodePtr below = file()) return below->filename();
  if (const NodePtr below = filtered()) return below->filename();
  return "json:" + options().dump();
}

nlohmann::json Node::options() const {
  nlohmann::json result = {{"driver", driver_}};
  for (const Edge* edge : children()) result[edge->name()] = (*edge)->options();
  return result;
}

int64_t Node::allocated_bytes() const {
  int64_t sum = 0;
  bool known = false;
  for (const Edge* edge : children()) {
    if (edge->role() == Role::kBacking) continue;
    const int64_t bytes = (*edge)->allocated_bytes();
    if (bytes < 0) continue;
    sum += bytes;
    known = true;
  }
  return known ? sum : -ENOTSUP;
}

nlohmann::json Node::format_specific_info() const {
  return nullptr;
}

const Edge* Node::child(std::string_view name) const {
  for (const Edge* edge : children())
    if (edge->name() == name) return edge;
  return nullptr;
}

NodePtr Node::backing() const {
  for (const Edge* edge : children())
    if (edge->role() == Role::kBacking) return edge->node();
  return nullptr;
}

NodePtr Node::filtered() const {
  for (const Edge* edge : children())
    if (edge->role() == Role::kFiltered) return edge->node();
  return nullptr;
}

NodePtr Node::file() const {
  for (const Edge* edge : children())
    if (edge->role() == Role::kFile) return edge->node();
  return nullptr;
}

Result<void> Node::set_backing(NodePtr) {
  return unsupported(*this, "have a backing file");
}

Task<Result<void>> Node::reopen(bool writable) {
  if (writable == !read_only()) co_return Result<void>();
  co_return unsupported(
      *this, writable ? "be made writable while it is open" : "be made read-only while it is open");
}

std::vector<Edge::Use> Node::uses() const {
  const std::lock_guard lock(graph_mutex());
  std::vector<Edge::Use> copies;
  for (const Edge::Use* use : uses_) copies.push_back(*use);
  return copies;
}

Task<Result<void>> Node::amend(nlohmann::json) {
  co_return unsupported(*this, "change options of an existing image");
}

Task<Result<void>> Node::make_empty() {
  co_return unsupported(*this, "be emptied");
}

Task<Result<void>> Node::change_backing_file(std::string, std::string) {
  co_return unsupported(*this, "have a backing file");
}

Result<void> Node::admit(const Edge::Use& use, const Edge::Use* instead,
                         std::span<const Parent* const> leaving) {
  const std::lock_guard lock(graph_mutex());
  for (const Edge::Use* other : uses_) {
    if (other == instead || std::ranges::find(leaving, other->parent) != leaving.end()) continue;
    const PermissionMask refused = use.permissions.used & ~other->permissions.shared;
    const PermissionMask disturbed = other->permissions.used & ~use.permissions.shared;
    if ((refused | disturbed) == 0) continue;
    return Error(ErrorKind::kBusy,
                 refused != 0 ? fmt::format("{} is used by '{}', which does not let others {}", filename(),
                                            other->parent->parent_name(), permission_names(refused))
                              : fmt::format("{} is used by '{}', which may {}; '{}' cannot allow that",
                                            filename(), other->parent->parent_name(),
                                            permission_names(disturbed), use.parent->parent_name()),
                 EBUSY);
  }
  return {};
}

std::vector<Parent*> Node::parents() const {
  const std::lock_guard lock(graph_mutex());
  std::vector<Parent*> result;
  for (const Edge::Use* use : uses_) result.push_back(use->parent);
  return result;
}

void Node::drain_begin() {
  const std::lock_guard lock(graph_mutex());
  ++drains_;
  for (const Edge::Use* use : uses_) use->parent->drain_begin();
}

void Node::drain_end() {
  const std::lock_guard lock(graph_mutex());
  --drains_;
  for (const Edge::Use* use : uses_) use->parent->drain_end();
}

bool Node::busy() const {
  const std::lock_guard lock(graph_mutex());
  return std::ranges::any_of(uses_, [](const Edge::Use* use) { return use->parent->busy(); });
}

void Node::resized() {
  const std::lock_guard lock(graph_mutex());  // parents do not go meanwhile
  for (Parent* parent : parents()) parent->resized();
}

Task<int> read_bytes(Node& node, uint64_t offset, void* to, size_t bytes) {
  const iovec whole{to, bytes};
  co_return co_await node.read(offset, Buffers(&whole, 1));
}

Task<int> write_bytes(Node& node, uint64_t offset, const void* from, size_t bytes) {
  const iovec whole{const_cast<void*>(from), bytes};  // write() only reads it
  co_return co_await node.write(offset, Buffers(&whole, 1));
}

Task<int> write_zeroes_anyhow(Node& node, uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const int error = co_await node.write_zeroes(offset, bytes, flags);
  if (error != -ENOTSUP || flags.no_fallback) co_return error;
  const size_t most = std::min<uint64_t>(bytes, 1 << 20);
  const AlignedBuffer zeroes(most);
  if (!zeroes) co_return -ENOMEM;
  std::fill_n(zeroes.data(), most, std::byte{0});
  while (bytes != 0) {
    const size_t piece = std::min<uint64_t>(bytes, most);
    const int written = co_await write_bytes(node, offset, zeroes.data(), piece);
    if (written != 0) co_return written;
    offset += piece;
    bytes -= piece;
  }
  co_return 0;
}

NodePtr skip_filters(NodePtr node) {
  while (node) {
    NodePtr below = node->filtered();
    if (!below) break;
    node = std::move(below);
  }
  return node;
}

NodePtr next_in_chain(const NodePtr& node) {
  const NodePtr image = skip_filters(node);
  return image ? skip_filters(image->backing()) : nullptr;
}

Task<int> chain_status(NodePtr top, NodePtr base, uint64_t offset, uint64_t bytes, StatusDetail detail,
                       ChainStatus& status) {
  base = skip_filters(std::move(base));
  unsigned depth = 0;
  uint64_t most = bytes;
  BlockStatus found;
  for (NodePtr node = skip_filters(top); node && node != base; node = next_in_chain(node), ++depth) {
    const uint64_t size = node->size();
    found = {};
    if (offset >= size) {
      // A backing file shorter than what lies on it: the rest reads as zeros.
      found = {.bytes = most, .zero = true, .allocated = depth != 0};
    } else {
      const int error = co_await node->block_status(offset, std::min(most, size - offset), detail, found);
      if (error != 0) co_return error;
      if (found.bytes == 0) co_return -EIO;
    }
    if (found.allocated) {
      static_cast<BlockStatus&>(status) = found;
      status.depth = depth;
      status.node = node.get();
      co_return 0;
    }
    most = std::min(most, found.bytes);
  }
  status = {};
  static_cast<BlockStatus&>(status) = found;  // space that is reserved and not in use has a place
  status.bytes = most;
  status.zero = !base;
  status.depth = depth;
  co_return 0;
}

}  // namespace ostler::block
