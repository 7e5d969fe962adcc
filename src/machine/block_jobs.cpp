#include "machine/block_jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "block/jobs/commit.h"
#include "block/jobs/graph.h"
#include "block/jobs/stream.h"

namespace ostler::machine {
namespace {

using block::NodePtr;
using block::Task;

Task<Result<void>> shut_down(block::JobManager* manager) {
  co_await manager->shut_down();
  co_return Result<void>();
}

Result<void> result_of(const Result<std::shared_ptr<block::Job>>& job) {
  if (job) return {};
  return Error(job.error());
}

struct NewImage {
  std::string file, format;
  uint64_t size = 0;
  NodePtr backing;  // its name is written into the image; null: none
  bool make = true;
  bool open_backing = false;
};

nlohmann::json creation_options(const NewImage& image) {
  nlohmann::json options = {{"size", image.size}};
  if (image.backing != nullptr) {
    options["backing_file"] = block::backing_name(image.backing);
    options["backing_fmt"] = block::skip_filters(image.backing)->driver();
  }
  return options;
}

Task<Result<NodePtr>> open_image(block::Opener* opener, NewImage image) {
  block::OpenFlags flags;
  flags.writable = true;
  flags.no_backing = true;
  if (image.make) {
    nlohmann::json options = creation_options(image);
    CO_TRY(co_await opener->create(image.file, image.format, std::move(options), flags));
  }
  flags.no_backing = !image.open_backing;
  auto opened = co_await opener->open(image.file, image.format, flags);
  co_return opened;
}

}  // namespace

BlockJobs::BlockJobs(Disks& disks)
    : disks_(disks), manager_(disks.thread().context(), disks.opener(), [this](const block::JobEvent& event) {
        tell(event);
      }) {}

BlockJobs::~BlockJobs() {
  static_cast<void>(disks_.thread().wait_for(shut_down(&manager_)));
  static_cast<void>(disks_.thread().wait_for(settle(true)));
}

void BlockJobs::pass_on(const block::JobEvent& event) const {
  if (handler_) return handler_(event);
  if (event.kind == block::JobEvent::Kind::kCompleted && !event.info.error.empty())
    log::warning(fmt::format("job '{}': {}", event.info.id, event.info.error));
}

void BlockJobs::tell(const block::JobEvent& event) {
  using Kind = block::JobEvent::Kind;
  const bool is_end = event.kind == Kind::kCompleted || event.kind == Kind::kCancelled ||
                      event.info.status >= block::JobStatus::kConcluded;
  if (is_end) {
    const std::lock_guard lock(mutex_);
    if (const auto found = untold_.find(event.info.id); found != untold_.end())
      return found->second.push_back(event);
  }
  pass_on(event);
}

Task<void> BlockJobs::close_after(std::shared_ptr<block::Job> job, std::shared_ptr<NodePtr> held) {
  const std::string id = job->id();
  co_await job->concluded();
  job = nullptr;
  co_await block::release_chain(std::move(*held));
  std::vector<block::JobEvent> events;
  {
    const std::lock_guard lock(mutex_);
    events = std::move(untold_[id]);
  }
  for (const block::JobEvent& each : events) pass_on(each);
  const std::lock_guard lock(mutex_);
  untold_.erase(id);
  closed_.wake_all();
}

// Until nothing is untold of jobs that have ended, or of all.
Task<Result<void>> BlockJobs::settle(bool all) {
  std::unique_lock lock(mutex_);
  const auto waits = [&] {
    return std::ranges::any_of(untold_, [all](const auto& entry) { return all || !entry.second.empty(); });
  };
  while (waits()) co_await closed_.wait(lock);
  co_return Result<void>();
}

std::vector<block::JobInfo> BlockJobs::list() {
  static_cast<void>(disks_.thread().wait_for(settle(false)));
  return manager_.list();
}

// Before the job begins: it may end at once.
void BlockJobs::expect(const std::string& id, Target& target) {
  if (target.own == nullptr || manager_.find(id) != nullptr) return;
  const std::lock_guard lock(mutex_);
  target.expected = untold_.try_emplace(id).second;
}

Result<BlockJobs::Target> BlockJobs::open_target(const JobTarget& target, const NodePtr& source,
                                                 block::SyncMode sync) {
  if (!target.node.empty()) {
    TRY_ASSIGN(NodePtr node, disks_.node(target.node));
    return Target{.node = std::move(node)};
  }
  if (target.file.empty())
    return Error(ErrorKind::kInvalidArgument, "a job that copies needs a target: a node or a file");
  NewImage image{.file = target.file,
                 .format = target.format,
                 .size = source->size(),
                 .backing = nullptr,
                 .make = !target.existing};
  if (sync == block::SyncMode::kTop) image.backing = block::next_in_chain(source);
  image.open_backing = image.backing != nullptr || target.existing;
  TRY_ASSIGN(NodePtr node, disks_.thread().wait_for(open_image(&disks_.opener(), std::move(image))));
  return Target{.node = nullptr, .own = std::make_shared<NodePtr>(std::move(node))};
}

Result<BlockJobs::Target> BlockJobs::open_overlay(const SnapshotRequest& request, const NodePtr& disk) {
  if (!request.overlay.empty()) {
    TRY_ASSIGN(NodePtr node, disks_.node(request.overlay));
    return Target{.node = std::move(node)};
  }
  if (request.file.empty())
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("a snapshot of '{}' needs an overlay: a node or a file", request.disk));
  NewImage image{.file = request.file, .format = request.format, .size = disk->size(), .backing = disk};
  TRY_ASSIGN(NodePtr node, disks_.thread().wait_for(open_image(&disks_.opener(), std::move(image))));
  return Target{.node = nullptr, .own = std::make_shared<NodePtr>(std::move(node))};
}

void BlockJobs::give_back(const std::vector<Target>& targets) {
  for (const Target& each : targets)
    if (each.own != nullptr) disks_.give_back(std::move(*each.own));
}

void BlockJobs::begun(const std::string& id, std::shared_ptr<block::Job> job, const Target& target) {
  if (target.own == nullptr) return;
  if (job != nullptr) return disks_.thread().context().spawn(close_after(std::move(job), target.own));
  give_back({target});
  if (!target.expected) return;
  // Of one that was undone again.
  std::vector<block::JobEvent> events;
  {
    const std::lock_guard lock(mutex_);
    events = std::move(untold_[id]);
    untold_.erase(id);
    closed_.wake_all();
  }
  for (const block::JobEvent& each : events) pass_on(each);
}

Result<void> BlockJobs::snapshot(const SnapshotRequest& request) {
  return transaction({request}, block::CompletionMode::kIndividual);
}

Result<void> BlockJobs::stream(const StreamRequest& request) {
  block::StreamOptions options;
  options.job = request.job;
  options.on_error = request.on_error;
  TRY_ASSIGN(options.node, disks_.node(request.disk));
  if (!request.base.empty()) {
    TRY_ASSIGN(options.base, disks_.node(request.base));
  }
  return result_of(disks_.thread().wait_for(block::start_stream(manager_, std::move(options))));
}

Result<void> BlockJobs::commit(const CommitRequest& request) {
  block::CommitOptions options;
  options.job = request.job;
  options.on_error = request.on_error;
  TRY_ASSIGN(options.node, disks_.node(request.disk));
  if (!request.top.empty()) {
    TRY_ASSIGN(options.top, disks_.node(request.top));
  }
  if (!request.base.empty()) {
    TRY_ASSIGN(options.base, disks_.node(request.base));
  }
  return result_of(disks_.thread().wait_for(block::start_commit(manager_, std::move(options))));
}

Result<void> BlockJobs::mirror(const MirrorRequest& request) {
  block::MirrorOptions options;
  options.job = request.job;
  options.sync = request.sync;
  options.copy_mode = request.copy_mode;
  TRY_ASSIGN(options.node, disks_.node(request.disk));
  if (!request.replaces.empty()) {
    TRY_ASSIGN(options.replaces, disks_.node(request.replaces));
  }
  TRY_ASSIGN(Target target, open_target(request.target, options.node, request.sync));
  options.target = target.get();
  expect(request.job.id, target);
  auto job = disks_.thread().wait_for(block::start_mirror(manager_, std::move(options)));
  begun(request.job.id, job ? *job : nullptr, target);
  return result_of(job);
}

Result<block::BackupOptions> BlockJobs::backup_options(const BackupRequest& request,
                                                       std::vector<Target>& targets) {
  block::BackupOptions options;
  options.job = request.job;
  options.sync = request.sync;
  options.bitmap = request.bitmap;
  options.bitmap_mode = request.bitmap_mode;
  options.compress = request.compress;
  TRY_ASSIGN(options.node, disks_.node(request.disk));
  TRY_ASSIGN(Target target, open_target(request.target, options.node, request.sync));
  options.target = target.get();
  expect(request.job.id, target);
  targets.push_back(target);
  return options;
}

Result<void> BlockJobs::backup(const BackupRequest& request) {
  std::vector<Target> targets;
  TRY_ASSIGN(block::BackupOptions options, backup_options(request, targets));
  auto job = disks_.thread().wait_for(block::start_backup(manager_, std::move(options)));
  begun(request.job.id, job ? *job : nullptr, targets.front());
  return result_of(job);
}

Result<void> BlockJobs::add_bitmap(const BitmapRequest& request) {
  return transaction({request}, block::CompletionMode::kIndividual);
}

Result<void> BlockJobs::remove_bitmap(const std::string& disk, const std::string& name) {
  TRY_ASSIGN(NodePtr node, disks_.node(disk));
  return disks_.thread().wait_for(block::remove_bitmap(manager_, std::move(node), name));
}

Result<void> BlockJobs::prepare(const ActionRequest& request, std::vector<block::TransactionAction>& actions,
                                std::vector<Target>& backups, std::vector<Target>& overlays) {
  if (const auto* backup = std::get_if<BackupRequest>(&request)) {
    TRY_ASSIGN(block::BackupOptions options, backup_options(*backup, backups));
    actions.emplace_back(std::move(options));
  }
  if (const auto* snapshot = std::get_if<SnapshotRequest>(&request)) {
    TRY_ASSIGN(NodePtr disk, disks_.node(snapshot->disk));
    TRY_ASSIGN(const Target overlay, open_overlay(*snapshot, disk));
    actions.emplace_back(block::SnapshotPair{std::move(disk), overlay.get()});
    overlays.push_back(overlay);
  }
  if (const auto* bitmap = std::get_if<BitmapRequest>(&request)) {
    TRY_ASSIGN(NodePtr disk, disks_.node(bitmap->disk));
    actions.emplace_back(block::BitmapOptions{.node = std::move(disk),
                                              .name = bitmap->name,
                                              .granularity = bitmap->granularity,
                                              .persistent = bitmap->persistent,
                                              .enabled = bitmap->enabled});
  }
  if (const auto* change = std::get_if<BitmapChangeRequest>(&request)) {
    TRY_ASSIGN(NodePtr disk, disks_.node(change->disk));
    actions.emplace_back(block::BitmapChange{change->kind, std::move(disk), change->name});
  }
  return {};
}

Result<void> BlockJobs::transaction(const std::vector<ActionRequest>& requests, block::CompletionMode mode) {
  std::vector<block::TransactionAction> actions;
  std::vector<Target> backups, overlays;
  std::vector<std::string> ids;  // of the backups
  Result<void> done;
  for (size_t i = 0; done && i < requests.size(); ++i) {
    done = prepare(requests[i], actions, backups, overlays);
    if (const auto* backup = std::get_if<BackupRequest>(&requests[i])) ids.push_back(backup->job.id);
  }
  std::vector<std::shared_ptr<block::Job>> jobs(backups.size());
  if (done) {
    auto started = disks_.thread().wait_for(block::run_transaction(manager_, std::move(actions), mode));
    if (started)
      jobs = *std::move(started);
    else
      done = std::move(started).error();
  }
  actions.clear();
  for (size_t i = 0; i < backups.size(); ++i) begun(ids[i], jobs[i], backups[i]);
  if (!done) give_back(overlays);
  return done;
}

}  // namespace ostler::machine
