#include "machine/disks.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/suggest.h"
#include "machine/disk_nodes.h"

namespace ostler::machine {

using block::NodePtr;

Result<std::unique_ptr<Disks>> Disks::create(const config::Machine& config, Stop stop) {
  std::unique_ptr<Disks> disks(new Disks(std::move(stop)));
  TRY(disks->open(config));
  return disks;
}

Result<void> Disks::open(const config::Machine& config) {
  for (const config::Object& each : config.objects)
    if (DiskObjects::has(each.type)) TRY(objects_.add(each, opener_));
  for (const config::Drive& each : config.drives)
    if (!each.limits.empty()) objects_.add_throttle_group(throttle_group_of(each));
  for (const config::BlockNode& each : config.block_nodes) {
    auto node = thread_.wait_for(open_block_node(opener_, each));
    if (!node) return std::move(node).error().with_context(each.origin);
    nodes_.emplace(each.name, *std::move(node));
  }
  for (const config::Drive& each : config.drives) {
    if (drives_.contains(each.id) || nodes_.contains(each.id))
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: the id '{}' is taken by another disk", each.origin, each.id));
    Drive drive{.settings = each, .root = nullptr, .user = {}};
    if (!each.empty()) {
      auto root = thread_.wait_for(open_drive(opener_, each));
      if (!root) return std::move(root).error().with_context(each.origin);
      drive.root = *std::move(root);
    }
    drives_.emplace(each.id, std::move(drive));
  }
  return {};
}

Disks::~Disks() {
  std::vector<NodePtr> open;
  for (auto& [name, disk] : in_use_) open.push_back(disk.client->node());
  in_use_.clear();  // the clients with it, but for those that a request still holds which has just ended
  thread_.settle();
  objects_.settle();
  for (auto& [name, drive] : drives_)
    if (drive.root != nullptr) open.push_back(std::move(drive.root));
  for (auto& [name, node] : nodes_) open.push_back(std::move(node));
  nodes_.clear();
  // What lies below another node is closed with it.
  std::erase_if(open, [](const NodePtr& node) { return !node->uses().empty(); });
  std::sort(open.begin(), open.end());
  open.erase(std::unique(open.begin(), open.end()), open.end());
  for (NodePtr& node : open)
    if (auto closed = thread_.wait_for(block::close_chain(std::move(node))); !closed)
      log::warning(closed.error().message());
}

const config::Drive* Disks::drive(const std::string& name) const {
  const auto found = drives_.find(name);
  return found == drives_.end() ? nullptr : &found->second.settings;
}

Error Disks::unknown(const std::string& name, const std::string& prefix) const {
  std::vector<std::string_view> known;
  for (const auto& entry : drives_) known.push_back(entry.first);
  for (const auto& entry : nodes_) known.push_back(entry.first);
  for (const auto& entry : devices_) known.push_back(entry.first);
  return Error(ErrorKind::kNotFound,
               fmt::format("{}there is no disk or block node '{}'{}", prefix, name, suggestion(name, known)));
}

Result<NodePtr> Disks::find(const DiskWish& wish) {
  if (const auto found = drives_.find(wish.name); found != drives_.end()) {
    Drive& drive = found->second;
    if (!drive.user.empty())
      return Error(ErrorKind::kBusy,
                   fmt::format("{}: the disk '{}' is already used by {}", wish.user, wish.name, drive.user));
    if (drive.root == nullptr && !wish.removable)
      return Error(
          ErrorKind::kInvalidArgument,
          fmt::format("{}: the drive '{}' is empty; name its image with file=", wish.user, wish.name));
    if (drive.root == nullptr) drive.root = no_medium();
    drive.user = wish.user;
    return std::exchange(drive.root, nullptr);
  }
  if (wish.name.empty() && wish.removable) return no_medium();
  if (NodePtr node = opener_.find(wish.name)) return node;
  return unknown(wish.name, wish.user + ": ");
}

block::ErrorPolicy Disks::policy(const DiskWish& wish, const config::Drive* settings) {
  const auto action = [](const std::string& own, const std::string& of_drive, block::ErrorAction otherwise) {
    const std::string& text = own.empty() || own == "auto" ? of_drive : own;
    if (text == "report") return block::ErrorAction::kReport;
    if (text == "ignore") return block::ErrorAction::kIgnore;
    if (text == "stop") return block::ErrorAction::kStop;
    return text == "enospc" ? block::ErrorAction::kEnospc : otherwise;
  };
  block::ErrorPolicy policy;
  policy.read = action(wish.read_error, settings != nullptr ? settings->read_error : "", policy.read);
  policy.write = action(wish.write_error, settings != nullptr ? settings->write_error : "", policy.write);
  policy.stop = [this, name = wish.name](int error) { stop_(name, error); };
  return policy;
}

Result<std::vector<std::shared_ptr<block::Backend>>> Disks::take(const DiskWish& wish) {
  std::vector<block::IoContext*> contexts;
  for (const std::string& id : wish.iothreads) {
    block::IoContext* context = &thread_.context();
    if (!id.empty()) {
      TRY_ASSIGN(context, objects_.iothread(id, wish.user));
    }
    contexts.push_back(context);
  }
  TRY_ASSIGN(NodePtr node, find(wish));
  block::Permissions permissions;
  if (!node->read_only() && !wish.removable) permissions.used |= block::kPermissionWrite;
  permissions.shared = block::kPermissionRead | block::kPermissionWriteUnchanged | block::kPermissionResize;
  if (wish.share_writes) permissions.shared |= block::kPermissionWrite;
  auto client = block::Client::attach(std::move(node), wish.name, permissions);
  if (!client) return std::move(client).error().with_context(wish.user);
  const config::Drive* const settings = drive(wish.name);
  (*client)->set_writethrough(settings != nullptr && settings->writethrough);
  const block::ErrorPolicy errors = policy(wish, settings);
  // A node that lets others write may have several users.
  std::string key = wish.name.empty() ? wish.device : wish.name;
  while (in_use_.contains(key)) key += '\'';
  if (!wish.device.empty()) devices_.emplace(wish.device, key);
  InUse& disk = in_use_[key];
  disk.client = *std::move(client);
  disk.removable = wish.removable;
  std::vector<std::shared_ptr<block::Backend>> backends;
  for (block::IoContext* context : contexts) {
    disk.queues.push_back(std::make_shared<block::NodeBackend>(disk.client, *context, errors));
    backends.push_back(disk.queues.back());
  }
  return backends;
}

Result<void> Disks::check_iothread(const std::string& id, const std::string& user) {
  TRY(objects_.iothread(id, user));
  return {};
}

void Disks::resumed() {
  for (const auto& [name, disk] : in_use_) disk.queues.front()->resumed();
}

}  // namespace ostler::machine
