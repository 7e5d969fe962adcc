// The job "commit": writes what images of a chain hold into one below them, which then takes their place.
#pragma once

#include "block/jobs/job_manager.h"

namespace ostler::block {

struct CommitOptions {
  JobOptions job;
  NodePtr node;  // "device": what users have
  NodePtr top;   // the topmost image that goes; null: the one that is written now
  NodePtr base;  // where it goes to; null: the lowest of the chain
  // The name of `base` that is written into the image above `top`; else it is made from base's.
  std::optional<std::string> backing_file;
  OnError on_error = OnError::kReport;
  std::string filter_node_name;
};

// On an I/O context, while the disk is used and written. Of the image that is written now, the job becomes
// ready and is completed or cancelled as a mirror is; else it ends by itself.
Task<Result<std::shared_ptr<Job>>> start_commit(JobManager& manager, CommitOptions options);

}  // namespace ostler::block
