#include "block/jobs/transaction.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/jobs/dirty_bitmap.h"
#include "block/jobs/graph.h"
#include "block/jobs/job_group.h"

namespace ostler::block {
namespace {

constexpr uint64_t kLeastGranule = 512;

// What was done, and how it is undone.
class Transaction {
 public:
  Transaction(JobManager& manager, std::vector<TransactionAction> actions)
      : manager_(manager), actions_(std::move(actions)) {}

  Task<Result<void>> run(CompletionMode mode) {
    {
      const std::vector<NodePtr> nodes = nodes_of();
      std::vector<Drained> held;
      for (const NodePtr& node : nodes) {
        Drained drained = co_await Drained::begin(node);
        held.push_back(std::move(drained));
      }
      auto done = co_await do_all(mode);
      if (done) co_return done;
      error_ = std::move(done).error();
      // While all are held back: a job that went on could come to its end first.
      cancel_jobs();
    }
    // Jobs come to their end only when nobody is held back any more.
    co_await undo();
    co_return std::move(*error_);
  }
  std::vector<std::shared_ptr<Job>> take_jobs() { return std::move(jobs_); }

 private:
  struct Undo {
    NodePtr node;
    std::string name;
    bool added = false;
    std::optional<bool> enabled = {};             // as it was
    std::unique_ptr<DirtyBitmap> bits = nullptr;  // of a bitmap that was cleared
  };

  std::vector<NodePtr> nodes_of() const {
    std::vector<NodePtr> nodes;
    for (const TransactionAction& each : actions_) {
      const NodePtr& node =
          std::visit([](const auto& action) -> const NodePtr& { return action.node; }, each);
      if (std::ranges::find(nodes, node) == nodes.end()) nodes.push_back(node);
    }
    return nodes;
  }

  Task<Result<void>> do_all(CompletionMode mode) {
    unsigned backups = 0;
    std::vector<SnapshotPair> snapshots;
    for (TransactionAction& each : actions_) {
      if (auto* const add = std::get_if<BitmapOptions>(&each)) CO_TRY(co_await add_one(*add));
      if (const auto* const change = std::get_if<BitmapChange>(&each)) CO_TRY(co_await change_one(*change));
      if (std::holds_alternative<BackupOptions>(each)) ++backups;
      if (auto* const pair = std::get_if<SnapshotPair>(&each)) snapshots.push_back(std::move(*pair));
    }
    if (mode == CompletionMode::kGrouped && backups != 0) group_ = std::make_shared<JobGroup>(backups);
    for (TransactionAction& each : actions_) {
      auto* const options = std::get_if<BackupOptions>(&each);
      if (options == nullptr) continue;
      options->job.group = group_;
      auto started = co_await start_backup(manager_, std::move(*options));
      if (!started) co_return std::move(started).error();
      jobs_.push_back(*std::move(started));
    }
    // The last of all, and itself whole or not at all.
    if (!snapshots.empty()) CO_TRY(co_await take_snapshots(manager_, std::move(snapshots)));
    co_return Result<void>();
  }

  void replace(const NodePtr& disk, const NodePtr& filter) {
    for (TransactionAction& each : actions_)
      std::visit(
          [&](auto& action) {
            if (action.node == disk) action.node = filter;
          },
          each);
  }

  Task<Result<void>> add_one(BitmapOptions options) {
    Undo undo;
    const NodePtr disk = options.node;
    undo.name = options.name;
    undo.added = true;
    CO_TRY_ASSIGN(undo.node, co_await add_bitmap(manager_, std::move(options)));
    // A filter that lies above it now: what follows finds the bitmap from there only.
    if (undo.node->filtered() == disk) replace(disk, undo.node);
    undos_.push_back(std::move(undo));
    co_return Result<void>();
  }

  Task<Result<void>> change_one(BitmapChange change) {
    CO_TRY_ASSIGN(Bitmaps* const bitmaps, find_bitmap(change.node, change.name));
    std::vector<NodePtr> layers;
    for (NodePtr each = change.node; each; each = each->filtered()) layers.push_back(each);
    CO_TRY_ASSIGN(const JobManager::Claim claim, manager_.claim("a bitmap that is changed", layers));
    Undo undo;
    undo.node = change.node;
    undo.name = change.name;
    if (change.kind == BitmapChange::Kind::kClear) {
      undo.bits = std::make_unique<DirtyBitmap>(change.node->size(), kLeastGranule);
      for (uint64_t at = 0, begin = 0, end = 0;; at = end) {
        CO_TRY_ASSIGN(const bool found, bitmaps->next_dirty(change.name, at, begin, end));
        if (!found) break;
        undo.bits->set(begin, end - begin);
      }
      CO_TRY(co_await bitmaps->clear(change.name));
    } else {
      const bool enable = change.kind == BitmapChange::Kind::kEnable;
      for (const BitmapInfo& each : bitmaps->list())
        if (each.name == change.name) undo.enabled = each.enabled;
      CO_TRY(co_await bitmaps->enable(change.name, enable));
    }
    undos_.push_back(std::move(undo));
    co_return Result<void>();
  }

  void cancel_jobs() {
    if (group_) group_->fail();
    for (const auto& job : jobs_) static_cast<void>(job->cancel(true));
  }

  Task<void> undo() {
    for (const auto& job : jobs_) co_await job->concluded();
    for (auto each = undos_.rbegin(); each != undos_.rend(); ++each) {
      if (each->added) {
        const auto removed = co_await remove_bitmap(manager_, std::move(each->node), each->name);
        static_cast<void>(removed);
        continue;
      }
      const auto bitmaps = find_bitmap(each->node, each->name);
      if (!bitmaps) continue;  // somebody has removed it
      if (each->enabled) {
        const auto back = co_await (*bitmaps)->enable(each->name, *each->enabled);
        static_cast<void>(back);
      }
      if (!each->bits) continue;
      uint64_t begin = 0, bytes = 0;
      for (uint64_t at = 0; each->bits->next(at, each->bits->disk_bytes(), begin, bytes); at = begin + bytes)
        static_cast<void>((*bitmaps)->mark(each->name, begin, bytes));
    }
  }

  JobManager& manager_;
  std::vector<TransactionAction> actions_;
  std::shared_ptr<JobGroup> group_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::vector<Undo> undos_;
  std::optional<Error> error_;
};

}  // namespace

Task<Result<std::vector<std::shared_ptr<Job>>>> run_transaction(JobManager& manager,
                                                                std::vector<TransactionAction> actions,
                                                                CompletionMode mode) {
  Transaction transaction(manager, std::move(actions));
  CO_TRY(co_await transaction.run(mode));
  co_return transaction.take_jobs();
}

}  // namespace ostler::block
