#include "block/jobs/commit.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/jobs/chain_copy_job.h"
#include "block/jobs/graph.h"
#include "block/jobs/mirror.h"

namespace ostler::block {
namespace {

// Of images inside a chain: nobody writes them, so that one pass is enough.
class CommitJob final : public ChainCopyJob {
 public:
  CommitJob(JobManager& manager, CommitOptions options, NodePtr overlay)
      : ChainCopyJob(manager, JobType::kCommit, std::move(options.job)),
        overlay_(std::move(overlay)),
        top_(skip_filters(options.top)),
        base_(std::move(options.base)),
        base_image_(skip_filters(base_)),
        backing_file_(std::move(options.backing_file)) {
    on_read_error_ = on_write_error_ = options.on_error;
    set_progress(0, top_->size());
  }

  Task<Result<void>> begin(JobManager::Claim claim) {
    claim_ = std::move(claim);
    const Mutex::Guard alone = co_await manager().change_graph();
    auto result = co_await connect();
    if (!result) co_await disconnect();
    co_return result;
  }

  Task<Result<void>> run() override {
    CO_TRY(co_await copy_all());
    if (cancelled() || overlay_->size() <= top_->size() || base_image_->size() <= top_->size())
      co_return Result<void>();
    // Between the end of a shorter image and its overlay's, zeros are read and not what the base has there.
    const Client::Pass pass = co_await client_->pass();
    const ZeroFlags flags = {.may_unmap = true};
    const int error =
        co_await write_zeroes_anyhow(*base_image_, top_->size(), base_image_->size() - top_->size(), flags);
    if (error != 0) co_return failed(failure_of_write(error, top_->size()));
    co_return Result<void>();
  }

  Task<Failure> next(Piece& piece) override { return next_wanted(top_, base_image_, piece); }

  Task<Failure> copy(Piece piece, std::byte* buffer) override {
    const Client::Pass pass = co_await client_->pass();
    const Failure failure = co_await copy_wanted(top_, base_image_, base_image_, piece, buffer);
    if (failure.error == 0) advance(piece.bytes);
    co_return failure;
  }

  bool is_wanted(const ChainStatus& status) const override { return status.allocated; }
  Task<int> write_zero_run(uint64_t offset, uint64_t bytes) override {
    return write_zeroes_anyhow(*base_image_, offset, bytes, {.may_unmap = true});
  }

  Task<Result<void>> prepare() override {
    const Mutex::Guard alone = co_await manager().change_graph();
    NodePtr old = overlay_->backing();
    {
      const Drained drained = co_await Drained::begin(base_image_);
      const int error = co_await base_image_->flush();
      if (error != 0)
        co_return errno_error(fmt::format("{}: its content cannot be made durable", base_image_->filename()),
                              -error);
      writer_ = nullptr;
      const bool was_read_only = overlay_->read_only();
      if (was_read_only) CO_TRY(co_await overlay_->reopen(true));
      std::string name = backing_file_.value_or(backing_name(base_));
      auto changed = co_await change_backing(overlay_, base_, name);
      if (was_read_only) {
        const auto done = co_await overlay_->reopen(false);
        if (changed && !done) co_return done;
      }
      if (!changed) co_return changed;
    }
    client_ = nullptr;
    top_ = nullptr;
    co_await release_chain(std::move(old));
    co_return Result<void>();
  }

  Task<void> clean(bool) override {
    const Mutex::Guard alone = co_await manager().change_graph();
    client_ = nullptr;
    co_await disconnect();
    overlay_ = top_ = base_ = base_image_ = nullptr;
    claim_.release();
  }

 private:
  static Failure failure_of_write(int error, uint64_t offset) {
    return {.error = error, .is_read = false, .offset = offset};
  }

  Task<Result<void>> connect() {
    CO_TRY(share_writes(base_image_, true));
    const Drained drained = co_await Drained::begin(base_image_);
    reopened_ = base_image_->read_only();
    if (reopened_) CO_TRY(co_await base_image_->reopen(true));
    if (base_image_->size() < top_->size())
      CO_TRY(co_await base_image_->truncate(top_->size(), Preallocation::kOff));
    // Its requests are held back whenever an image of the chain is drained.
    auto client = Client::attach(top_, fmt::format("job '{}'", id()), Permissions{});
    if (!client) co_return std::move(client).error();
    client_ = *std::move(client);
    writer_ = std::make_unique<Client>(fmt::format("job '{}'", id()));
    auto edge = Edge::attach(*writer_, base_image_, "base", Role::kUser,
                             {.used = kPermissionRead | kPermissionWrite, .shared = kPermissionsAll});
    if (!edge) co_return std::move(edge).error();
    writer_->edge() = *std::move(edge);
    co_return Result<void>();
  }

  Task<void> disconnect() {
    writer_ = nullptr;
    if (reopened_) {
      const Drained drained = co_await Drained::begin(base_image_);
      const auto done = co_await base_image_->reopen(false);
      static_cast<void>(done);  // it stays writable: of no harm
    }
    static_cast<void>(share_writes(base_image_, false));
  }

  NodePtr overlay_, top_, base_, base_image_;
  const std::optional<std::string> backing_file_;
  JobManager::Claim claim_;
  std::unique_ptr<Client> writer_;  // of the permission only
  bool reopened_ = false;
};

Error not_in_chain(const NodePtr& image, const NodePtr& node) {
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{} is not in the chain of {}", image->filename(), node->filename()));
}

Task<Result<std::shared_ptr<Job>>> commit_active(JobManager& manager, CommitOptions options) {
  if (options.backing_file)
    co_return Error(ErrorKind::kInvalidArgument,
                    "'backing-file' is of use only when an image stays above the one that is committed");
  MirrorOptions mirror;
  mirror.job = std::move(options.job);
  mirror.node = std::move(options.node);
  mirror.target = std::move(options.base);
  mirror.on_source_error = mirror.on_target_error = options.on_error;
  mirror.filter_node_name = std::move(options.filter_node_name);
  auto job = co_await start_active_commit(manager, std::move(mirror));
  co_return job;
}

}  // namespace

Task<Result<std::shared_ptr<Job>>> start_commit(JobManager& manager, CommitOptions options) {
  CO_TRY(manager.check_id(options.job.id));
  const NodePtr active = skip_filters(options.node);
  if (!options.top) options.top = active;
  if (!in_chain(active, options.top)) co_return not_in_chain(options.top, options.node);
  const NodePtr top = skip_filters(options.top);
  if (!options.base) {
    options.base = next_in_chain(top);
    while (next_in_chain(options.base)) options.base = next_in_chain(options.base);
  }
  if (!options.base)
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} has no backing file to commit to", top->filename()));
  if (skip_filters(options.base) == top || !in_chain(top, options.base))
    co_return not_in_chain(options.base, top);
  if (top == active) {
    auto job = co_await commit_active(manager, std::move(options));
    co_return job;
  }
  const NodePtr overlay = overlay_of(active, top);
  std::vector<NodePtr> taken = nodes_of_chain(overlay, options.base);
  taken.push_back(skip_filters(options.base));
  const std::vector<NodePtr> read = nodes_of_chain(next_in_chain(options.base), nullptr);
  CO_TRY_ASSIGN(JobManager::Claim claim, manager.claim(fmt::format("job '{}'", options.job.id), taken, read));
  auto job = std::make_shared<CommitJob>(manager, std::move(options), overlay);
  CO_TRY(co_await job->begin(std::move(claim)));
  auto started = manager.start(job);
  if (!started) {
    co_await job->clean(false);
    co_return std::move(started).error();
  }
  co_return std::shared_ptr<Job>(std::move(job));
}

}  // namespace ostler::block
