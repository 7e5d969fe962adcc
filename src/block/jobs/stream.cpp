#include "block/jobs/stream.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/jobs/chain_copy_job.h"
#include "block/jobs/graph.h"
#include "block/jobs/job_filter.h"

namespace ostler::block {
namespace {

class StreamJob final : public ChainCopyJob {
 public:
  StreamJob(JobManager& manager, StreamOptions options, NodePtr image)
      : ChainCopyJob(manager, JobType::kStream, std::move(options.job)),
        image_(std::move(image)),
        base_(std::move(options.base)),
        backing_file_(std::move(options.backing_file)) {
    on_read_error_ = on_write_error_ = options.on_error;
    skip_ignored_ = true;
    set_progress(0, image_->size());
  }

  // Makes the image writable and lets the job see writes to it.
  Task<Result<void>> begin(JobManager::Claim claim) {
    claim_ = std::move(claim);
    const Mutex::Guard alone = co_await manager().change_graph();
    was_read_only_ = image_->read_only();
    if (was_read_only_) {
      const Drained drained = co_await Drained::begin(image_);
      CO_TRY(co_await image_->reopen(true));
    } else {
      auto filter = std::make_shared<StreamFilter>();
      CO_TRY(manager().opener().add(filter, ""));
      const Permissions taken = {.used = kPermissionRead | kPermissionWrite,
                                 .shared = kPermissionRead | kPermissionWriteUnchanged};
      CO_TRY(co_await insert_filter(filter, image_, taken));
      filter_ = std::move(filter);
    }
    auto client =
        Client::attach(image_, fmt::format("job '{}'", id()),
                       {.used = kPermissionRead | kPermissionWriteUnchanged, .shared = kPermissionsAll});
    if (!client) {
      co_await undo();
      co_return std::move(client).error();
    }
    client_ = *std::move(client);
    co_return Result<void>();
  }

  Task<Result<void>> run() override {
    CO_TRY(co_await copy_all());
    if (any_skipped())
      co_return Error(
          ErrorKind::kIo,
          fmt::format("job '{}': some requests failed; {} keeps its backing file", id(), image_->filename()),
          EIO);
    co_return Result<void>();
  }

  Task<Failure> next(Piece& piece) override { return next_wanted(image_, base_, piece); }

  Task<Failure> copy(Piece piece, std::byte* buffer) override {
    const Client::Pass pass = co_await client_->pass();
    std::optional<RangeLocks::Guard> alone;
    if (filter_) alone.emplace(co_await filter_->hold(piece.offset, piece.bytes));
    const Failure failure = co_await copy_wanted(image_, base_, image_, piece, buffer);
    if (failure.error == 0) advance(piece.bytes);
    co_return failure;
  }

  bool is_wanted(const ChainStatus& status) const override {
    return status.allocated && status.depth != 0 && (base_ || !status.zero);
  }
  // Without a base the image reads as zeros there anyway.
  Task<int> write_zero_run(uint64_t offset, uint64_t bytes) override {
    if (!base_) co_return 0;
    const ZeroFlags flags = {.may_unmap = true};
    co_return co_await write_zeroes_anyhow(*image_, offset, bytes, flags);
  }

  Task<Result<void>> prepare() override {
    const Mutex::Guard alone = co_await manager().change_graph();
    NodePtr old = image_->backing();
    {
      const Drained drained = co_await Drained::begin(image_);
      const int error = co_await image_->flush();
      if (error != 0)
        co_return errno_error(fmt::format("{}: its content cannot be made durable", image_->filename()),
                              -error);
      std::string name;
      if (base_) name = backing_file_.value_or(backing_name(base_));
      CO_TRY(co_await change_backing(image_, base_, name));
    }
    co_await release_chain(std::move(old));
    co_return Result<void>();
  }

  Task<void> clean(bool) override {
    const Mutex::Guard alone = co_await manager().change_graph();
    client_ = nullptr;
    co_await undo();
    base_ = nullptr;
    image_ = nullptr;
    claim_.release();
  }

 private:
  // Comes from an image that goes; what nothing hides reads as zeros without a backing file anyway.
  Task<void> undo() {
    if (filter_) co_await remove_filter(filter_);
    filter_ = nullptr;
    if (was_read_only_) {
      const Drained drained = co_await Drained::begin(image_);
      const auto done = co_await image_->reopen(false);
      static_cast<void>(done);  // it stays writable: of no harm
    }
  }

  NodePtr image_, base_;
  const std::optional<std::string> backing_file_;
  JobManager::Claim claim_;
  std::shared_ptr<StreamFilter> filter_;
  bool was_read_only_ = false;
};

// The node on which the image above `base` lies, with base's filters; null if `base` is not below `image`.
NodePtr child_for_base(const NodePtr& image, const NodePtr& base) {
  const NodePtr wanted = skip_filters(base);
  for (NodePtr node = image; node; node = next_in_chain(node))
    if (next_in_chain(node) == wanted) return node->backing();
  return nullptr;
}

}  // namespace

Task<Result<std::shared_ptr<Job>>> start_stream(JobManager& manager, StreamOptions options) {
  CO_TRY(manager.check_id(options.job.id));
  const NodePtr image = skip_filters(options.node);
  if (options.bottom) {
    if (options.base)
      co_return Error(ErrorKind::kInvalidArgument, "'base' and 'bottom' cannot both be given");
    if (!in_chain(image, options.bottom) || skip_filters(options.bottom) == image)
      co_return Error(ErrorKind::kInvalidArgument,
                      fmt::format("{} is not among the backing files of {}", options.bottom->filename(),
                                  image->filename()));
    options.base = skip_filters(options.bottom)->backing();
  } else if (options.base) {
    const NodePtr base = child_for_base(image, options.base);
    if (!base)
      co_return Error(ErrorKind::kInvalidArgument, fmt::format("{} is not among the backing files of {}",
                                                               options.base->filename(), image->filename()));
    options.base = base;
  }
  const std::vector<NodePtr> chain = nodes_of_chain(image, options.base);
  std::vector<NodePtr> kept;
  if (options.base) kept.push_back(skip_filters(options.base));
  CO_TRY_ASSIGN(JobManager::Claim claim, manager.claim(fmt::format("job '{}'", options.job.id), chain, kept));
  auto job = std::make_shared<StreamJob>(manager, std::move(options), image);
  CO_TRY(co_await job->begin(std::move(claim)));
  auto started = manager.start(job);
  if (!started) {
    co_await job->clean(false);
    co_return std::move(started).error();
  }
  co_return std::shared_ptr<Job>(std::move(job));
}

}  // namespace ostler::block
