// External snapshots of disks that are in use: from then on a new image takes what is written, and the old
// one, below it, stays as it is. Also: another name for a backing file.
#pragma once

#include <string>
#include <vector>

#include "block/jobs/job_manager.h"

namespace ostler::block {

struct SnapshotPair {
  NodePtr node;     // what users have
  NodePtr overlay;  // open for writing, without a backing node, as large, used by nobody
};

// "blockdev-snapshot", of several disks at one moment: all or none. On an I/O context.
Task<Result<void>> take_snapshots(JobManager& manager, std::vector<SnapshotPair> disks);

struct SnapshotFile {
  NodePtr node;
  std::string file;  // is made; an existing one loses its content
  std::string format = "qcow2";
  std::string node_name;  // of the overlay; empty: a free one
  OpenFlags flags;        // cache mode and the like
};

// "blockdev-snapshot-sync": makes the overlay too. After an error the file may be there.
Task<Result<NodePtr>> take_snapshot_file(JobManager& manager, SnapshotFile snapshot);

// Writes another name for the backing file of `image`, which is `node` or in its chain, into it; the graph
// stays. On an I/O context.
Task<Result<void>> change_backing_file(JobManager& manager, NodePtr node, NodePtr image, std::string name);

}  // namespace ostler::block
