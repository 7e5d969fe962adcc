#include "machine/disk_nodes.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "block/driver.h"
#include "block/filters/overlay_node.h"
#include "block/filters/throttle.h"
#include "block/null/null_node.h"

namespace ostler::machine {
namespace {

using block::NodePtr;
using block::Opener;
using block::OpenFlags;
using nlohmann::json;

// The options of the drive's image as a block node has them.
Result<json> image_options(const config::Drive& drive) {
  TRY_ASSIGN(json own, block::nest_options(json::parse(drive.options, nullptr, false)));
  if (drive.file.empty()) return own;
  TRY_ASSIGN(json named, block::options_of_filename(drive.file));
  const block::Driver* const driver = block::find_driver(block::string_at(own, "driver"));
  const bool is_whole = drive.file.starts_with("json:") && named.contains("file");
  if (is_whole || (driver != nullptr && driver->kind == block::DriverKind::kProtocol)) {
    named.update(own, true);
    return named;
  }
  if (own.contains("file")) named.update(own["file"], true);
  own["file"] = std::move(named);
  return own;
}

json filter_options(const char* driver, const NodePtr& below) {
  json options = json::object();
  options["driver"] = driver;
  options["file"] = below->name();
  return options;
}

// Puts what the drive wants on top of `root`, which is the root all along.
block::Task<Result<void>> add_filters(Opener& opener, const config::Drive& drive, NodePtr& root) {
  OpenFlags flags;
  flags.writable = !drive.read_only;
  if (root->size() == 0 && !drive.cdrom)
    co_return Error(ErrorKind::kInvalidArgument,
                    root->filename() + " is empty; a disk needs at least one sector");
  if (drive.snapshot && !drive.read_only) {
    CO_TRY_ASSIGN(std::shared_ptr<block::OverlayNode> overlay, block::OverlayNode::create(root));
    CO_TRY(opener.add(overlay, ""));
    root = std::move(overlay);
  }
  if (drive.copy_on_read && drive.read_only)
    log::warning(
        fmt::format("drive '{}': copy-on-read=on does nothing, as copies would be written to {}, which "
                    "is opened for reading only; leave one of the two out",
                    drive.id, root->filename()));
  if (drive.copy_on_read && !drive.read_only) {
    json options = filter_options("copy-on-read", root);
    auto opened = co_await opener.open(std::move(options), flags);
    if (!opened) co_return std::move(opened).error();
    root = *std::move(opened);
  }
  if (!drive.limits.empty() || !drive.throttle_group.empty()) {
    json options = filter_options("throttle", root);
    options["throttle-group"] = throttle_group_of(drive);
    if (!drive.limits.empty())
      options["limits"] = json::parse(drive.limits, nullptr, false);
    else
      CO_TRY(block::ThrottleGroup::find(
          drive.throttle_group, "throttling.group",
          fmt::format("-object throttle-group,id={},x-iops-total=N makes it", drive.throttle_group)));
    auto opened = co_await opener.open(std::move(options), flags);
    if (!opened) co_return std::move(opened).error();
    root = *std::move(opened);
  }
  co_return Result<void>();
}

}  // namespace

std::string throttle_group_of(const config::Drive& drive) {
  return drive.throttle_group.empty() ? drive.id : drive.throttle_group;
}

block::Task<Result<NodePtr>> open_block_node(Opener& opener, config::BlockNode node) {
  OpenFlags flags;
  flags.writable = true;  // unless the options say read-only
  json options = json::parse(node.options, nullptr, false);
  auto opened = co_await opener.open(std::move(options), flags);
  co_return opened;
}

block::Task<Result<NodePtr>> open_drive(Opener& opener, config::Drive drive) {
  OpenFlags flags;
  flags.writable = !drive.read_only && !drive.snapshot;
  if (drive.aio == "threads") flags.aio = block::Aio::kThreads;
  CO_TRY_ASSIGN(json options, image_options(drive));
  auto opened = co_await opener.open(std::move(options), flags);
  if (!opened) co_return std::move(opened).error();
  NodePtr root = *std::move(opened);
  auto added = co_await add_filters(opener, drive, root);
  if (!added) {
    auto closed = co_await block::close_chain(std::move(root));
    static_cast<void>(closed);
    co_return std::move(added).error();
  }
  co_return root;
}

NodePtr no_medium() {
  return std::make_shared<block::NullNode>(0, true);
}

}  // namespace ostler::machine
