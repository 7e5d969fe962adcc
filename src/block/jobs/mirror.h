// The job "mirror": makes a second disk hold what the first one does while a guest writes; in the end the
// users of the first may go over to it. The same work commits the topmost image of a chain.
#pragma once

#include "block/jobs/job_manager.h"

namespace ostler::block {

enum class SyncMode { kFull, kTop, kNone, kIncremental, kBitmap };
Result<SyncMode> parse_sync_mode(std::string_view name);
enum class MirrorCopyMode { kBackground, kWriteBlocking };

struct MirrorOptions {
  JobOptions job;
  NodePtr node;                     // "device": what users have
  NodePtr target;                   // open for writing, as large, used by nobody
  SyncMode sync = SyncMode::kFull;  // full: the whole disk; top: what the topmost image has; none: new writes
  MirrorCopyMode copy_mode = MirrorCopyMode::kBackground;
  uint64_t granularity = 65536;       // bytes, a power of two from 512 to 64 MiB
  uint64_t buffer_bytes = 16u << 20;  // "buf-size": in flight at most; 1 MiB at least
  bool unmap = true;                  // zeros may become holes of the target
  OnError on_source_error = OnError::kReport, on_target_error = OnError::kReport;
  std::string filter_node_name;
  // What the target takes the place of in the end: an image under filters (throttle, …) that `node` is one
  // of; null: `node`.
  NodePtr replaces;
};

// On an I/O context, while the disk is used and written. The job becomes ready when the target has caught up;
// complete() makes the users go over to it, cancel() leaves them.
Task<Result<std::shared_ptr<Job>>> start_mirror(JobManager& manager, MirrorOptions options);

// Of an active layer: `options.target` is an image of the chain under `options.node`. What lies above it is
// copied into it, and complete() makes it the disk. Called by start_commit().
Task<Result<std::shared_ptr<Job>>> start_active_commit(JobManager& manager, MirrorOptions options);

}  // namespace ostler::block
