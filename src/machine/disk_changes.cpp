// What happens to disks while the guest runs: other sizes, other media, more nodes.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "block/jobs/graph.h"
#include "machine/disk_nodes.h"
#include "machine/disks.h"

namespace ostler::machine {

using block::NodePtr;

namespace {

// The client's former node is closed unless somebody else has it.
block::Task<Result<void>> move_client(std::shared_ptr<block::Client> client, NodePtr to) {
  NodePtr from = client->node();
  {
    const block::Drained drained = co_await block::Drained::begin(from);
    CO_TRY(client->edge().replace(std::move(to)));
  }
  co_await block::release_chain(std::move(from));
  co_return Result<void>();
}

block::Task<Result<void>> release(NodePtr node) {
  co_await block::release_chain(std::move(node));
  co_return Result<void>();
}

block::Task<Result<void>> resize_node(NodePtr node, uint64_t bytes) {
  const block::Drained drained = co_await block::Drained::begin(node);
  auto result = co_await node->truncate(bytes, block::Preallocation::kOff);
  co_return result;
}

}  // namespace

const Disks::InUse* Disks::in_use(const std::string& name) const {
  const auto device = devices_.find(name);
  const auto found = in_use_.find(device == devices_.end() ? name : device->second);
  return found == in_use_.end() ? nullptr : &found->second;
}

Result<NodePtr> Disks::node(const std::string& name) const {
  if (const InUse* const disk = in_use(name)) {
    const std::lock_guard lock(block::graph_mutex());
    return NodePtr(disk->client->node());
  }
  if (const auto drive = drives_.find(name); drive != drives_.end() && drive->second.root != nullptr)
    return NodePtr(drive->second.root);
  if (NodePtr node = opener_.find(name)) return node;
  return unknown(name, "");
}

Result<void> Disks::resize(const std::string& name, uint64_t bytes) {
  TRY_ASSIGN(NodePtr found, node(name));
  if (bytes == 0 || bytes % 512 != 0)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}' cannot have {} bytes: a disk has sectors of 512 bytes", name, bytes));
  TRY(thread_.wait_for(resize_node(std::move(found), bytes)));
  // The device was told while its disk was drained and still had its former size.
  if (const InUse* const disk = in_use(name)) disk->client->resized();
  return {};
}

Result<NodePtr> Disks::open_medium(const std::string& name, const std::string& file,
                                   const std::string& format) {
  config::Drive next;
  next.cdrom = next.read_only = true;
  if (const config::Drive* const settings = drive(name)) next = *settings;
  next.file = file;
  next.options = format.empty() ? "{}" : nlohmann::json({{"driver", format}}).dump();
  return thread_.wait_for(open_drive(opener_, std::move(next)));
}

Result<void> Disks::change_medium(const std::string& name, NodePtr medium) {
  const InUse* const disk = in_use(name);
  if (disk == nullptr || !disk->removable)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}' is not a drive with a removable medium that a device has", name));
  if (medium == nullptr) medium = no_medium();
  auto moved = thread_.wait_for(move_client(disk->client, std::move(medium)));
  disk->client->resized();
  return moved;
}

bool Disks::has_medium(const std::string& name) const {
  const InUse* const disk = in_use(name);
  return disk != nullptr && disk->client->size() != 0;
}

void Disks::give_back(NodePtr node) {
  static_cast<void>(thread_.wait_for(release(std::move(node))));
}

Result<void> Disks::add_node(const config::BlockNode& node) {
  if (drives_.contains(node.name))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the name '{}' is taken by another disk", node.name));
  TRY_ASSIGN(NodePtr made, thread_.wait_for(open_block_node(opener_, node)));
  nodes_[node.name] = std::move(made);
  return {};
}

Result<void> Disks::remove_node(const std::string& name) {
  const auto found = nodes_.find(name);
  if (found == nodes_.end())
    return Error(ErrorKind::kNotFound, fmt::format("there is no block node '{}' made by itself", name));
  if (const auto uses = found->second->uses(); !uses.empty())
    return Error(ErrorKind::kBusy,
                 fmt::format("'{}' is in use by '{}'", name, uses.front().parent->parent_name()), EBUSY);
  NodePtr node = std::move(found->second);
  nodes_.erase(found);
  return thread_.wait_for(block::close_chain(std::move(node)));
}

}  // namespace ostler::machine
