#include "block/jobs/mirror.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "block/jobs/chain_copy_job.h"
#include "block/jobs/graph.h"
#include "block/jobs/mirror_filter.h"

namespace ostler::block {
namespace {

// Users are held back for as long as copying this may take, when they go over.
constexpr uint64_t kLittle = 8u << 20;
// A guest that writes faster than it is copied is held back for longer after so many attempts.
constexpr unsigned kRounds = 8;

class MirrorJob final : public ChainCopyJob {
 public:
  MirrorJob(JobManager& manager, MirrorOptions options, bool is_commit)
      : ChainCopyJob(manager, is_commit ? JobType::kCommit : JobType::kMirror, options.job),
        options_(std::move(options)),
        is_commit_(is_commit),
        source_(std::move(options_.node)),
        target_(std::move(options_.target)),
        replaces_(std::move(options_.replaces)),
        target_to_cancel_(target_) {
    on_read_error_ = options_.on_source_error;
    on_write_error_ = options_.on_target_error;
    parallel_ = static_cast<unsigned>(std::clamp<uint64_t>(options_.buffer_bytes / kPiece, 1, 64));
    if (is_commit_)
      base_ = skip_filters(target_);
    else if (options_.sync == SyncMode::kTop)
      base_ = next_in_chain(source_);
    partial_ = is_commit_ || options_.sync == SyncMode::kTop;
    dirty_ = std::make_shared<DirtyBitmap>(source_->size(), options_.granularity);
  }

  Task<Result<void>> begin(JobManager::Claim claim) {
    claim_ = std::move(claim);
    const Mutex::Guard alone = co_await manager().change_graph();
    auto result = co_await connect();
    if (!result) co_await disconnect();
    co_return result;
  }

  Task<Result<void>> run() override {
    if (!partial_ && options_.sync == SyncMode::kFull) dirty_->set(0, dirty_->disk_bytes());
    if (partial_) CO_TRY(co_await find_allocated());
    for (;;) {
      const uint64_t seen = wakes();
      filter_->want_wake();
      CO_TRY(co_await copy_all());
      if (cancelled()) co_return Result<void>();
      if (target_error_ != 0)
        co_return errno_error(fmt::format("job '{}': writing to {} failed", id(), target_->filename()),
                              -target_error_);
      if (!is_ready_) set_ready();
      is_ready_ = true;
      if (soft_cancelled() || asked_to_complete()) co_return Result<void>();
      if (dirty_->dirty_bytes() == 0) co_await wait_for_wake(seen);
    }
  }

  Task<Failure> next(Piece& piece) override {
    if (target_error_ != 0) co_return Failure();
    // What a guest that never rests writes anew is copied when it is held back.
    if ((asked_to_complete() || soft_cancelled()) && dirty_->dirty_bytes() <= kLittle) co_return Failure();
    if (!dirty_->take(position_, kPiece, piece.offset, piece.bytes)) {
      position_ = 0;
      if (!dirty_->take(0, kPiece, piece.offset, piece.bytes)) co_return Failure();
    }
    position_ = piece.offset + piece.bytes;
    set_progress(done_, done_ + piece.bytes + dirty_->dirty_bytes());
    co_return Failure();
  }

  Task<Failure> copy(Piece piece, std::byte* buffer) override {
    const Client::Pass pass = co_await client_->pass();
    co_return co_await copy_runs(piece, buffer);
  }

  // Users are held back; what is left is little.
  Task<Result<void>> prepare() override {
    for (unsigned round = 0;; ++round) {
      std::vector<NodePtr> gone;
      {
        const Mutex::Guard alone = co_await manager().change_graph();
        const Drained source = co_await Drained::begin(source_);
        const Drained target = co_await Drained::begin(target_);
        if (dirty_->dirty_bytes() <= kLittle || round == kRounds) {
          CO_TRY(co_await copy_rest());
          const int error = co_await target_->flush();
          if (error != 0)
            co_return errno_error(fmt::format("{}: its content cannot be made durable", target_->filename()),
                                  -error);
          if (soft_cancelled()) co_return Result<void>();
          CO_TRY(pivot());
          gone.push_back(std::exchange(replaces_ ? replaces_ : source_, nullptr));
          source_ = base_ = nullptr;
        }
      }
      if (!gone.empty()) {
        co_await release_chain(std::move(gone.front()));
        co_return Result<void>();
      }
      CO_TRY(co_await copy_all());
    }
  }

  Task<void> clean(bool) override {
    const Mutex::Guard alone = co_await manager().change_graph();
    client_ = nullptr;
    co_await disconnect();
    source_ = target_ = base_ = replaces_ = nullptr;
    claim_.release();
  }

  void on_cancel() override {
    if (const NodePtr target = target_to_cancel_.lock()) target->cancel();
  }

 private:
  Task<Result<void>> connect() {
    if (is_commit_) {
      CO_TRY(share_writes(target_, true));
      if (target_->read_only()) {
        const Drained drained = co_await Drained::begin(target_);
        CO_TRY(co_await target_->reopen(true));
        reopened_ = true;
      }
      if (target_->size() < source_->size()) {
        const Drained drained = co_await Drained::begin(target_);
        CO_TRY(co_await target_->truncate(source_->size(), Preallocation::kOff));
      }
    }
    if (partial_ && !is_commit_) {
      // Zeros in the topmost image hide what lies below: they must do so in the target from the beginning.
      const NodePtr below = skip_filters(source_)->backing(), top = skip_filters(target_);
      const Drained drained = co_await Drained::begin(target_);
      std::string name;
      if (below) name = backing_name(below);
      if (below && !top->backing()) CO_TRY(co_await change_backing(top, below, name));
    }
    std::weak_ptr<Job> self = weak_from_this();
    auto filter = std::make_shared<MirrorFilter>(is_commit_ ? "commit_top" : "mirror_top", dirty_, [self] {
      if (const auto job = std::static_pointer_cast<MirrorJob>(self.lock())) job->wake();
    });
    CO_TRY(manager().opener().add(filter, options_.filter_node_name));
    CO_TRY(filter->connect_target(
        target_, {.used = kPermissionRead | kPermissionWrite,
                  .shared = is_commit_ ? kPermissionsAll : kPermissionRead | kPermissionWriteUnchanged}));
    if (options_.copy_mode == MirrorCopyMode::kWriteBlocking)
      filter->write_to_target(options_.unmap, [self](int error) {
        if (const auto job = std::static_pointer_cast<MirrorJob>(self.lock())) job->target_failed(error);
      });
    Permissions taken = {.used = kPermissionRead, .shared = kPermissionRead | kPermissionWriteUnchanged};
    if (!source_->read_only()) taken.used |= kPermissionWrite;
    auto inserted = co_await insert_filter(filter, source_, taken);
    if (!inserted) {
      filter->target().detach();
      co_return inserted;
    }
    filter_ = std::move(filter);
    CO_TRY_ASSIGN(client_, Client::attach(filter_, fmt::format("job '{}'", id()), Permissions{}));
    co_return Result<void>();
  }

  Task<void> disconnect() {
    if (filter_ && filter_->child_edge()) {
      co_await remove_filter(filter_);
      const Drained drained = co_await Drained::begin(target_);
      filter_->target().detach();
    }
    filter_ = nullptr;
    if (is_commit_ && source_) {
      if (reopened_) {
        const Drained drained = co_await Drained::begin(target_);
        const auto done = co_await target_->reopen(false);
        static_cast<void>(done);  // it stays writable: of no harm
      }
      static_cast<void>(share_writes(target_, false));
    }
  }

  // Of a user's write that went to the target at once.
  void target_failed(int error) {
    if (tell_error(on_write_error_, false, error) == OnError::kReport) {
      int none = 0;
      target_error_.compare_exchange_strong(none, error);
      filter_->give_up_target();
    }
    wake();
  }

  Task<Result<void>> find_allocated() {
    const uint64_t size = source_->size();
    for (uint64_t at = 0; at < size;) {
      const bool go_on = co_await pause_point();
      if (!go_on) break;
      const Client::Pass pass = co_await client_->pass();
      ChainStatus status;
      const uint64_t step = std::min(size - at, kStatusStep);
      const int error = co_await chain_status(source_, base_, at, step, StatusDetail::kQuick, status);
      if (error != 0)
        co_return errno_error(
            fmt::format("job '{}': {} cannot be read at offset {}", id(), source_->filename(), at), -error);
      if (status.allocated) dirty_->set(at, status.bytes);
      at += status.bytes;
    }
    co_return Result<void>();
  }

  Task<Failure> copy_runs(Piece piece, std::byte* buffer) {
    const RangeLocks::Guard range = co_await filter_->hold(piece.offset, piece.bytes);
    const Failure failure = co_await copy_wanted(source_, base_, target_, piece, buffer);
    if (failure.error != 0) co_return failure;
    done_ += piece.bytes;
    set_progress(done_, done_ + dirty_->dirty_bytes());
    co_return failure;
  }

  bool is_wanted(const ChainStatus& status) const override { return status.allocated || !partial_; }

  // What is zero in the target already stays as it is.
  Task<int> write_zero_run(uint64_t offset, uint64_t bytes) override {
    const ZeroFlags flags = {.may_unmap = options_.unmap};
    while (bytes != 0) {
      ChainStatus status;
      int error = co_await chain_status(target_, nullptr, offset, bytes, StatusDetail::kPrecise, status);
      if (error != 0) co_return error;
      const uint64_t run = std::min(status.bytes, bytes);
      if (!status.zero) error = co_await write_zeroes_anyhow(*target_, offset, run, flags);
      if (error != 0) co_return error;
      offset += run;
      bytes -= run;
    }
    co_return 0;
  }

  Task<Result<void>> copy_rest() {
    const AlignedBuffer buffer(kPiece);
    Piece piece;
    while (dirty_->take(0, kPiece, piece.offset, piece.bytes)) {
      Failure failure = {.error = -ENOMEM, .is_read = true, .offset = piece.offset};
      if (buffer.size() >= piece.bytes) failure = co_await copy_runs(piece, buffer.data());
      if (failure.error != 0) {
        dirty_->set(piece.offset, piece.bytes);
        co_return failed(failure);
      }
    }
    co_return Result<void>();
  }

  static std::vector<const Parent*> not_users_of(const NodePtr& node) {
    std::vector<const Parent*> parents;
    for (const Edge::Use& use : node->uses())
      if (use.role != Role::kUser) parents.push_back(use.parent);
    return parents;
  }

  Result<void> pivot() {
    client_ = nullptr;
    const Parent* const leaving[] = {filter_.get()};
    // Those who have begun to use the image itself, below the filter, go too.
    if (!replaces_) TRY(Edge::move_users(source_, target_, not_users_of(source_), leaving));
    TRY(Edge::move_users(replaces_ ? replaces_ : filter_, target_, {}, leaving));
    if (replaces_) static_cast<void>(Edge::move_users(filter_, source_, {}, leaving));
    filter_->target().detach();
    filter_->child_edge().detach();
    return {};
  }

  MirrorOptions options_;
  const bool is_commit_;
  bool partial_ = false;  // only what images above base_ have
  NodePtr source_, target_, base_, replaces_;
  const std::weak_ptr<Node> target_to_cancel_;  // read by other threads
  JobManager::Claim claim_;
  std::shared_ptr<DirtyBitmap> dirty_;
  std::shared_ptr<MirrorFilter> filter_;
  std::atomic<int> target_error_{0};
  bool reopened_ = false, is_ready_ = false;
  uint64_t position_ = 0, done_ = 0;
};

Task<Result<std::shared_ptr<Job>>> start(JobManager& manager, MirrorOptions options, bool is_commit,
                                         JobManager::Claim claim) {
  auto job = std::make_shared<MirrorJob>(manager, std::move(options), is_commit);
  CO_TRY(co_await job->begin(std::move(claim)));
  auto started = manager.start(job);
  if (!started) {
    co_await job->clean(false);
    co_return std::move(started).error();
  }
  co_return std::shared_ptr<Job>(std::move(job));
}

// Only filters lie between the two.
bool is_filtered_by(const NodePtr& below, NodePtr node) {
  while (node && node != below) node = node->filtered();
  return node != nullptr;
}

Result<void> check_granularity(uint64_t granularity) {
  if (std::has_single_bit(granularity) && granularity >= 512 && granularity <= 64u << 20) return {};
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("a granularity is a power of two from 512 to 64M, not {}", granularity));
}

}  // namespace

Result<SyncMode> parse_sync_mode(std::string_view name) {
  static constexpr std::string_view kNames[] = {"full", "top", "none", "incremental", "bitmap"};
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i] == name) return static_cast<SyncMode>(i);
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("'{}' is not what can be copied: full, top, none, incremental or bitmap", name));
}

Task<Result<std::shared_ptr<Job>>> start_mirror(JobManager& manager, MirrorOptions options) {
  CO_TRY(manager.check_id(options.job.id));
  CO_TRY(check_granularity(options.granularity));
  if (options.sync == SyncMode::kIncremental || options.sync == SyncMode::kBitmap)
    co_return Error(ErrorKind::kInvalidArgument, "a mirror copies 'full', 'top' or 'none', not by a bitmap");
  const NodePtr& node = options.node;
  const NodePtr& target = options.target;
  if (in_chain(node, target) || in_chain(target, node))
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} cannot be mirrored to {}: one lies on the other", node->filename(),
                                target->filename()));
  if (target->read_only())
    co_return Error(ErrorKind::kPermission,
                    fmt::format("{} is open for reading only; a mirror writes it", target->filename()),
                    EROFS);
  if (target->size() != node->size())
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} has {} bytes and {} has {}; a mirror needs two of one size",
                                node->filename(), node->size(), target->filename(), target->size()));
  if (options.replaces == node) options.replaces = nullptr;
  if (options.replaces && !is_filtered_by(options.replaces, node))
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} cannot be replaced: it is not the image under the filters of {}",
                                options.replaces->filename(), node->filename()));
  std::vector<NodePtr> taken = nodes_of_chain(node, next_in_chain(node));
  for (const NodePtr& each : nodes_of_chain(target, next_in_chain(target))) taken.push_back(each);
  std::vector<NodePtr> read = nodes_of_chain(next_in_chain(node), nullptr);
  CO_TRY_ASSIGN(JobManager::Claim claim, manager.claim(fmt::format("job '{}'", options.job.id), taken, read));
  auto job = co_await start(manager, std::move(options), false, std::move(claim));
  co_return job;
}

Task<Result<std::shared_ptr<Job>>> start_active_commit(JobManager& manager, MirrorOptions options) {
  CO_TRY(manager.check_id(options.job.id));
  std::vector<NodePtr> taken = nodes_of_chain(options.node, options.target);
  taken.push_back(skip_filters(options.target));
  const std::vector<NodePtr> read = nodes_of_chain(next_in_chain(options.target), nullptr);
  CO_TRY_ASSIGN(JobManager::Claim claim, manager.claim(fmt::format("job '{}'", options.job.id), taken, read));
  auto job = co_await start(manager, std::move(options), true, std::move(claim));
  co_return job;
}

}  // namespace ostler::block
