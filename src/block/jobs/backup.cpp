#include "block/jobs/backup.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "block/capabilities.h"
#include "block/client.h"
#include "block/driver.h"
#include "block/jobs/bitmaps.h"
#include "block/jobs/copy_job.h"
#include "block/jobs/graph.h"

namespace ostler::block {
namespace {

constexpr uint64_t kLeastGranule = 65536;

uint64_t granule_of(const NodePtr& target) {
  return std::bit_ceil(std::max(kLeastGranule, target->limits().cluster_bytes));
}

class BackupJob final : public CopyJob {
 public:
  BackupJob(JobManager& manager, BackupOptions options)
      : CopyJob(manager, JobType::kBackup, options.job),
        options_(std::move(options)),
        source_(std::move(options_.node)),
        target_(std::move(options_.target)),
        target_to_cancel_(target_) {
    on_read_error_ = options_.on_source_error;
    on_write_error_ = options_.on_target_error;
    left_ = std::make_shared<DirtyBitmap>(source_->size(), granule_of(target_));
    parallel_ = static_cast<unsigned>(std::clamp<uint64_t>((8u << 20) / left_->granularity(), 1, 8));
  }

  Task<Result<void>> begin(JobManager::Claim claim) {
    claim_ = std::move(claim);
    const Mutex::Guard alone = co_await manager().change_graph();
    auto result = co_await connect();
    if (!result) co_await disconnect();
    co_return result;
  }

  Task<Result<void>> run() override {
    set_progress(0, left_->dirty_bytes());
    for (;;) {
      const uint64_t seen = wakes();
      if (options_.sync == SyncMode::kNone) {
        const bool go_on = co_await pause_point();
        if (!go_on) co_return Result<void>();
      } else {
        CO_TRY(co_await copy_all());
      }
      if (cancelled()) co_return Result<void>();
      CO_TRY(check_target());
      // Users do some of the copying; what they have begun is done when the filter goes.
      if (options_.sync != SyncMode::kNone && left_->dirty_bytes() == 0) co_return Result<void>();
      position_ = 0;
      if (options_.sync == SyncMode::kNone) co_await wait_for_wake(seen);
    }
  }

  Task<Failure> next(Piece& piece) override {
    while (!cancelled() && !pause_wanted() && filter_->broken() == 0) {
      if (!left_->next(position_, std::max(kPiece, left_->granularity()), piece.offset, piece.bytes)) break;
      if (options_.sync == SyncMode::kTop) {
        Failure failure = {.is_read = true, .offset = piece.offset};
        uint64_t absent = 0;
        failure.error = co_await skip_absent(piece.offset, absent);
        if (failure.error != 0) co_return failure;
        if (absent != 0) {
          piece.bytes = 0;
          continue;
        }
      }
      position_ = piece.offset + piece.bytes;
      co_return Failure();
    }
    piece.bytes = 0;
    co_return Failure();
  }

  Task<Failure> copy(Piece piece, std::byte* buffer) override {
    const Client::Pass pass = co_await client_->pass();
    const BackupFilter::Failure failure = co_await filter_->copy(piece.offset, piece.bytes, buffer);
    if (failure.error == 0) advance(piece.bytes);
    Failure result;
    result.error = failure.error;
    result.is_read = failure.is_read;
    result.offset = failure.offset;
    co_return result;
  }

  Task<Result<void>> prepare() override {
    const Mutex::Guard alone = co_await manager().change_graph();
    const Drained drained = co_await Drained::begin(source_);
    // A user's copy may have failed meanwhile.
    CO_TRY(check_target());
    const int error = co_await target_->flush();
    if (error != 0)
      co_return errno_error(fmt::format("{}: its content cannot be made durable", target_->filename()),
                            -error);
    co_return Result<void>();
  }

  Task<void> clean(bool success) override {
    const Mutex::Guard alone = co_await manager().change_graph();
    client_ = nullptr;
    co_await disconnect();
    give_bits_back(success);
    source_ = target_ = nullptr;
    claim_.release();
  }

  void on_cancel() override {
    if (const NodePtr target = target_to_cancel_.lock()) target->cancel();
  }

 private:
  bool by_bitmap() const {
    return options_.sync == SyncMode::kBitmap || options_.sync == SyncMode::kIncremental;
  }

  Task<Result<void>> connect() {
    auto filter = std::make_shared<BackupFilter>(
        left_, BackupFilter::Settings{.compress = options_.compress, .on_error = options_.on_cbw_error});
    CO_TRY(manager().opener().add(filter, options_.filter_node_name));
    CO_TRY(filter->connect_target(target_));
    const std::weak_ptr<Job> self = weak_from_this();
    filter->on_broken([self](int error) {
      if (const auto job = std::static_pointer_cast<BackupJob>(self.lock())) job->broken(error);
    });
    // The moment that is copied: the bitmap is read and the filter put there in one drain.
    const Drained drained = co_await Drained::begin(source_);
    if (by_bitmap())
      CO_TRY(read_bitmap());
    else
      left_->set(0, left_->disk_bytes());
    Permissions taken = {.used = kPermissionRead, .shared = kPermissionRead | kPermissionWriteUnchanged};
    if (!source_->read_only()) taken.used |= kPermissionWrite;
    auto inserted = co_await insert_filter(filter, source_, taken);
    if (!inserted) {
      filter->target().detach();
      co_return inserted;
    }
    filter_ = std::move(filter);
    CO_TRY_ASSIGN(client_, Client::attach(filter_, fmt::format("job '{}'", id()), Permissions{}));
    if (!options_.snapshot_node_name.empty()) {
      access_ = std::make_shared<SnapshotAccessNode>(source_->size(), source_->filename());
      CO_TRY(manager().opener().add(access_, options_.snapshot_node_name));
      CO_TRY(access_->connect(filter_));
    }
    if (by_bitmap() && mode() != BitmapMode::kNever) {
      CO_TRY_ASSIGN(Bitmaps* const bitmaps, find_bitmap(source_, options_.bitmap));
      CO_TRY(co_await bitmaps->clear(options_.bitmap));
      bits_taken_ = true;
    }
    co_return Result<void>();
  }

  Task<void> disconnect() {
    if (filter_ && filter_->child_edge()) {
      {
        const Drained drained = co_await Drained::begin(source_);
        filter_->give_up();
        if (access_) access_->end();
      }
      co_await remove_filter(filter_);
      const Drained drained = co_await Drained::begin(target_);
      filter_->target().detach();
    }
    access_ = nullptr;
    filter_ = nullptr;
  }

  BitmapMode mode() const { return options_.bitmap_mode.value_or(BitmapMode::kOnSuccess); }

  Result<void> read_bitmap() {
    TRY_ASSIGN(const Bitmaps* const bitmaps, find_bitmap(source_, options_.bitmap));
    taken_ = std::make_unique<DirtyBitmap>(source_->size(), left_->granularity());
    for (uint64_t at = 0, begin = 0, end = 0;; at = end) {
      TRY_ASSIGN(const bool found, bitmaps->next_dirty(options_.bitmap, at, begin, end));
      if (!found) return {};
      left_->set(begin, end - begin);
      taken_->set(begin, end - begin);
    }
  }

  // Of a backup that failed, the bitmap gets back what is not in the target.
  void give_bits_back(bool success) {
    if (success || !bits_taken_) return;
    const auto bitmaps = find_bitmap(source_, options_.bitmap);
    if (!bitmaps) return;  // somebody has removed it
    const DirtyBitmap& bits = mode() == BitmapMode::kAlways ? *left_ : *taken_;
    uint64_t begin = 0, bytes = 0;
    for (uint64_t at = 0; bits.next(at, bits.disk_bytes(), begin, bytes); at = begin + bytes) {
      const auto marked = (*bitmaps)->mark(options_.bitmap, begin, bytes);
      if (!marked) return;
    }
  }

  Result<void> check_target() const {
    const int error = filter_->broken();
    if (error == 0) return {};
    return errno_error(fmt::format("job '{}': what a guest overwrites cannot be copied", id()), -error);
  }

  // Users do some of the copying: on their threads.
  void broken(int error) {
    static_cast<void>(tell_error(OnError::kReport, false, error));
    wake();
  }

  // Bytes from `offset` on that the topmost image does not have: they are not to be copied.
  Task<int> skip_absent(uint64_t offset, uint64_t& absent) {
    const Client::Pass pass = co_await client_->pass();
    ChainStatus status;
    const uint64_t step = std::min(source_->size() - offset, kStatusStep);
    const int error =
        co_await chain_status(source_, next_in_chain(source_), offset, step, StatusDetail::kQuick, status);
    if (error != 0) co_return error;
    const uint64_t granule = left_->granularity();
    absent = 0;
    if (status.allocated || !next_in_chain(source_)) co_return 0;
    const bool to_end = offset + status.bytes >= source_->size();
    absent = to_end ? status.bytes : status.bytes / granule * granule;
    // A user that writes there has had it copied already, or does now: both are right.
    left_->clear(offset, absent);
    advance(absent);
    co_return 0;
  }

  BackupOptions options_;
  NodePtr source_, target_;
  const std::weak_ptr<Node> target_to_cancel_;  // read by other threads
  JobManager::Claim claim_;
  std::shared_ptr<DirtyBitmap> left_;
  std::unique_ptr<DirtyBitmap> taken_;  // what the bitmap had at the beginning
  bool bits_taken_ = false;
  std::shared_ptr<BackupFilter> filter_;
  std::shared_ptr<SnapshotAccessNode> access_;
  std::shared_ptr<Client> client_;
  uint64_t position_ = 0;
};

Result<void> check(const BackupOptions& options) {
  const NodePtr& node = options.node;
  const NodePtr& target = options.target;
  const auto bad = [](std::string message) { return Error(ErrorKind::kInvalidArgument, std::move(message)); };
  if (in_chain(node, target) || in_chain(target, node))
    return bad(fmt::format("{} cannot be backed up to {}: one lies on the other", node->filename(),
                           target->filename()));
  if (target->read_only())
    return Error(ErrorKind::kPermission,
                 fmt::format("{} is open for reading only; a backup writes it", target->filename()), EROFS);
  if (target->size() != node->size())
    return bad(fmt::format("{} has {} bytes and {} has {}; a backup needs two of one size", node->filename(),
                           node->size(), target->filename(), target->size()));
  if (options.compress) {
    const Driver* driver = find_driver(skip_filters(target)->driver());
    if (driver == nullptr || !driver->compression)
      return bad(fmt::format("{}: the format '{}' has no compression", target->filename(),
                             skip_filters(target)->driver()));
  }
  const bool by_bitmap = options.sync == SyncMode::kBitmap || options.sync == SyncMode::kIncremental;
  if (by_bitmap != !options.bitmap.empty())
    return bad("'bitmap' goes with sync=bitmap and sync=incremental, and these need it");
  if (!by_bitmap) {
    if (options.bitmap_mode) return bad("'bitmap-mode' goes with sync=bitmap");
    return {};
  }
  if (options.sync == SyncMode::kIncremental &&
      options.bitmap_mode.value_or(BitmapMode::kOnSuccess) != BitmapMode::kOnSuccess)
    return bad("sync=incremental has bitmap-mode=on-success; others go with sync=bitmap");
  if (options.sync == SyncMode::kBitmap && !options.bitmap_mode)
    return bad("sync=bitmap needs 'bitmap-mode'");
  uint64_t begin, end;
  TRY_ASSIGN(const Bitmaps* const bitmaps, find_bitmap(node, options.bitmap));
  TRY(bitmaps->next_dirty(options.bitmap, 0, begin, end));
  return {};
}

}  // namespace

Result<BitmapMode> parse_bitmap_mode(std::string_view name) {
  static constexpr std::string_view kNames[] = {"on-success", "never", "always"};
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i] == name) return static_cast<BitmapMode>(i);
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("'{}' is not a bitmap's mode: on-success, never or always", name));
}

Task<Result<std::shared_ptr<Job>>> start_backup(JobManager& manager, BackupOptions options) {
  CO_TRY(manager.check_id(options.job.id));
  CO_TRY(check(options));
  std::vector<NodePtr> taken = nodes_of_chain(options.node, next_in_chain(options.node));
  for (const NodePtr& each : nodes_of_chain(options.target, next_in_chain(options.target)))
    taken.push_back(each);
  const std::vector<NodePtr> read = nodes_of_chain(next_in_chain(options.node), nullptr);
  CO_TRY_ASSIGN(JobManager::Claim claim, manager.claim(fmt::format("job '{}'", options.job.id), taken, read));
  auto job = std::make_shared<BackupJob>(manager, std::move(options));
  CO_TRY(co_await job->begin(std::move(claim)));
  auto started = manager.start(job);
  if (!started) {
    co_await job->clean(false);
    co_return std::move(started).error();
  }
  co_return std::shared_ptr<Job>(std::move(job));
}

}  // namespace ostler::block
