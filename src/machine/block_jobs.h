// Snapshots and copies of a running machine's disks (block/jobs) by the names that users know. The operations
// are those of QMP's blockdev-snapshot(-sync), block-stream, block-commit, blockdev-mirror, drive-mirror,
// blockdev-backup, drive-backup, block-dirty-bitmap-add and -remove, transaction and job-….
//
// A disk is named by its drive, its device or its node; other nodes by their names. The machine's thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "block/jobs/transaction.h"
#include "machine/disks.h"

namespace ostler::machine {

// Where a job copies to.
struct JobTarget {
  std::string node = {};  // one that was made before; empty: `file`
  std::string file = {};  // closed again when nobody uses it any more
  std::string format = "qcow2";
  bool existing = false;  // the file is there already; else it is made, and an existing one loses its content
};

struct StreamRequest {
  block::JobOptions job;
  std::string disk;
  std::string base = {};  // the backing image that stays; "": none
  block::OnError on_error = block::OnError::kReport;
};

struct CommitRequest {
  block::JobOptions job;
  std::string disk;
  std::string top = {}, base = {};  // "": what is written now; the lowest image
  block::OnError on_error = block::OnError::kReport;
};

struct MirrorRequest {
  block::JobOptions job;
  std::string disk;
  JobTarget target;
  block::SyncMode sync = block::SyncMode::kFull;
  block::MirrorCopyMode copy_mode = block::MirrorCopyMode::kBackground;
  std::string replaces = {};  // a node under filters; "": the disk
};

struct BackupRequest {
  block::JobOptions job;
  std::string disk;
  JobTarget target;
  block::SyncMode sync = block::SyncMode::kFull;
  std::string bitmap = {};
  std::optional<block::BitmapMode> bitmap_mode = {};
  bool compress = false;
};

// The overlay is a node without a backing node, or `file`, which is made.
struct SnapshotRequest {
  std::string disk;
  std::string overlay = {};
  std::string file = {}, format = "qcow2";
};

struct BitmapRequest {
  std::string disk, name;
  uint64_t granularity = 65536;  // bytes
  bool persistent = false, enabled = true;
};

struct BitmapChangeRequest {
  block::BitmapChange::Kind kind = block::BitmapChange::Kind::kClear;
  std::string disk, name;
};

using ActionRequest = std::variant<SnapshotRequest, BackupRequest, BitmapRequest, BitmapChangeRequest>;

class BlockJobs {
 public:
  explicit BlockJobs(Disks& disks);
  // Cancels all jobs and waits for their ends.
  ~BlockJobs();

  // Told of each event on a thread of the jobs, without locks; before jobs begin. Without it, errors are
  // logged.
  void on_event(block::JobEvents handler) { handler_ = std::move(handler); }

  Result<void> snapshot(const SnapshotRequest& request);
  Result<void> stream(const StreamRequest& request);
  Result<void> commit(const CommitRequest& request);
  Result<void> mirror(const MirrorRequest& request);
  Result<void> backup(const BackupRequest& request);
  Result<void> add_bitmap(const BitmapRequest& request);
  Result<void> remove_bitmap(const std::string& disk, const std::string& name);
  // At one moment, all or none.
  Result<void> transaction(const std::vector<ActionRequest>& requests, block::CompletionMode mode);

  // To control one: kNotFound.
  Result<std::shared_ptr<block::Job>> job(const std::string& id) const { return manager_.need(id); }
  // Files of jobs that it tells as concluded are closed.
  std::vector<block::JobInfo> list();

 private:
  // A node for a job: one of the user's, or one that was opened for it and is closed at its end, before that
  // is told.
  struct Target {
    block::NodePtr node;                       // the user's
    std::shared_ptr<block::NodePtr> own = {};  // null: the user's
    bool expected = false;                     // its end is waited for
    const block::NodePtr& get() const { return own != nullptr ? *own : node; }
  };
  Result<Target> open_target(const JobTarget& target, const block::NodePtr& source, block::SyncMode sync);
  Result<Target> open_overlay(const SnapshotRequest& request, const block::NodePtr& disk);
  void give_back(const std::vector<Target>& targets);
  // Around the beginning of a job with this target; null: it did not begin.
  void expect(const std::string& id, Target& target);
  void begun(const std::string& id, std::shared_ptr<block::Job> job, const Target& target);
  Result<block::BackupOptions> backup_options(const BackupRequest& request, std::vector<Target>& targets);
  Result<void> prepare(const ActionRequest& request, std::vector<block::TransactionAction>& actions,
                       std::vector<Target>& backups, std::vector<Target>& overlays);
  void tell(const block::JobEvent& event);
  void pass_on(const block::JobEvent& event) const;
  block::Task<void> close_after(std::shared_ptr<block::Job> job, std::shared_ptr<block::NodePtr> held);
  block::Task<Result<void>> settle(bool all);

  Disks& disks_;
  block::JobEvents handler_;
  std::mutex mutex_;  // of the following
  block::WaitQueue closed_;
  // By their ids, jobs whose files are to be closed: what is not told yet of their ends.
  std::map<std::string, std::vector<block::JobEvent>> untold_;
  block::JobManager manager_;
};

}  // namespace ostler::machine
