#include "block/jobs/snapshot.h"

#include <fmt/format.h>

#include "block/jobs/graph.h"

namespace ostler::block {
namespace {

Result<void> check_pair(const SnapshotPair& pair) {
  const Node& overlay = *pair.overlay;
  const auto bad = [&](std::string_view why) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{} cannot lie on {}: {}", overlay.filename(), pair.node->filename(), why));
  };
  if (overlay.read_only()) return bad("it is open for reading only");
  if (overlay.backing()) return bad("it has a backing file open; open it with backing=null");
  if (!overlay.uses().empty()) return bad("it is in use");
  if (overlay.size() != pair.node->size()) return bad("the sizes differ");
  return {};
}

// Nobody makes requests.
Result<void> put_on_top(const SnapshotPair& pair) {
  TRY(Edge::move_users(pair.node, pair.overlay, {}));
  auto attached = pair.overlay->set_backing(pair.node);
  if (!attached) static_cast<void>(Edge::move_users(pair.overlay, pair.node, {}));
  return attached;
}

void take_off(const SnapshotPair& pair) {
  static_cast<void>(pair.overlay->set_backing(nullptr));
  static_cast<void>(Edge::move_users(pair.overlay, pair.node, {}));
}

}  // namespace

Task<Result<void>> take_snapshots(JobManager& manager, std::vector<SnapshotPair> disks) {
  std::vector<NodePtr> nodes;
  for (const SnapshotPair& each : disks) {
    CO_TRY(check_pair(each));
    nodes.push_back(skip_filters(each.node));
    nodes.push_back(each.overlay);
  }
  CO_TRY_ASSIGN(const JobManager::Claim claim, manager.claim("a snapshot that is taken", nodes));
  const Mutex::Guard alone = co_await manager.change_graph();
  std::vector<Drained> held;
  for (const SnapshotPair& each : disks) {
    Drained node = co_await Drained::begin(each.node);
    held.push_back(std::move(node));
    // Users that come to it stay held back.
    Drained overlay = co_await Drained::begin(each.overlay);
    held.push_back(std::move(overlay));
  }
  for (const SnapshotPair& each : disks) {
    const int error = co_await each.node->flush();
    if (error != 0)
      co_return errno_error(fmt::format("{}: its content cannot be made durable", each.node->filename()),
                            -error);
  }
  for (size_t i = 0; i < disks.size(); ++i) {
    auto done = put_on_top(disks[i]);
    if (done) continue;
    while (i-- != 0) take_off(disks[i]);
    co_return done;
  }
  for (const SnapshotPair& each : disks) {
    // What lies below is written no more; a node that cannot let go of its file stays as it is.
    const auto reopened = co_await each.node->reopen(false);
    static_cast<void>(reopened);
  }
  co_return Result<void>();
}

Task<Result<NodePtr>> take_snapshot_file(JobManager& manager, SnapshotFile snapshot) {
  Opener& opener = manager.opener();
  OpenFlags flags = snapshot.flags;
  flags.writable = true;
  flags.no_backing = true;
  nlohmann::json options;
  options["size"] = snapshot.node->size();
  CO_TRY(co_await opener.create(snapshot.file, snapshot.format, std::move(options), flags));
  CO_TRY_ASSIGN(nlohmann::json described, options_of_filename(snapshot.file));
  nlohmann::json whole;
  whole["driver"] = snapshot.format;
  whole["file"] = std::move(described);
  if (!snapshot.node_name.empty()) whole["node-name"] = snapshot.node_name;
  CO_TRY_ASSIGN(NodePtr overlay, co_await opener.open(std::move(whole), flags));
  const std::string name = backing_name(snapshot.node);
  const std::string format = skip_filters(snapshot.node)->driver();
  auto result = co_await overlay->change_backing_file(name, format);
  if (result) {
    SnapshotPair pair;
    pair.node = std::move(snapshot.node);
    pair.overlay = overlay;
    std::vector<SnapshotPair> one;
    one.push_back(std::move(pair));
    result = co_await take_snapshots(manager, std::move(one));
  }
  if (!result) {
    const auto closed = co_await close_chain(std::move(overlay));
    static_cast<void>(closed);
    co_return std::move(result).error();
  }
  co_return overlay;
}

Task<Result<void>> change_backing_file(JobManager& manager, NodePtr node, NodePtr image, std::string name) {
  image = skip_filters(image);
  if (!in_chain(node, image))
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} is not in the chain of {}", image->filename(), node->filename()));
  const NodePtr below = next_in_chain(image);
  if (!below) co_return Error(ErrorKind::kInvalidArgument, image->filename() + " has no backing file");
  std::vector<NodePtr> taken;
  taken.push_back(image);
  CO_TRY_ASSIGN(const JobManager::Claim claim, manager.claim("a change of a backing file", taken));
  const Mutex::Guard alone = co_await manager.change_graph();
  const Drained drained = co_await Drained::begin(image);
  const bool was_read_only = image->read_only();
  if (was_read_only) CO_TRY(co_await image->reopen(true));
  auto result = co_await image->change_backing_file(std::move(name), below->driver());
  if (was_read_only) {
    auto back = co_await image->reopen(false);
    if (result && !back) co_return back;
  }
  co_return result;
}

}  // namespace ostler::block
