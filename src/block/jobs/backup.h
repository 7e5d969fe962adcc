// The job "backup": copies a disk as it was when the job began, while a guest writes.
#pragma once

#include "block/jobs/backup_filter.h"
#include "block/jobs/job_manager.h"
#include "block/jobs/mirror.h"

namespace ostler::block {

// What happens to the bitmap of a backup: it holds what has changed since the backup began if that has
// succeeded, or always, or it stays as it is and goes on recording.
enum class BitmapMode { kOnSuccess, kNever, kAlways };
Result<BitmapMode> parse_bitmap_mode(std::string_view name);

struct BackupOptions {
  JobOptions job;
  NodePtr node;    // "device": what users have
  NodePtr target;  // open for writing, as large, used by nobody
  // full; top: what the topmost image has; none: only what users overwrite, until it is cancelled; bitmap:
  // what `bitmap` says; incremental: the same with kOnSuccess.
  SyncMode sync = SyncMode::kFull;
  std::string bitmap;  // one that find_bitmap() finds
  std::optional<BitmapMode> bitmap_mode;
  bool compress = false;
  OnError on_source_error = OnError::kReport, on_target_error = OnError::kReport;
  OnCbwError on_cbw_error = OnCbwError::kBreakSnapshot;
  std::string filter_node_name;
  // Names a node that reads the disk as it was, while the job runs; empty: there is none.
  std::string snapshot_node_name;
};

// On an I/O context, while the disk is used and written.
Task<Result<std::shared_ptr<Job>>> start_backup(JobManager& manager, BackupOptions options);

}  // namespace ostler::block
