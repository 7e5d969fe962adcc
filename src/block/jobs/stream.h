// The job "stream": copies into an image what it takes from its backing files, so that it needs them no more.
#pragma once

#include "block/jobs/job_manager.h"

namespace ostler::block {

struct StreamOptions {
  JobOptions job;
  NodePtr node;    // "device": an image, or what lies on top of it; also one inside a chain
  NodePtr base;    // the backing file that stays; null: none
  NodePtr bottom;  // instead of `base`: the last image that is copied from
  // The name of `base` that is written into the image; else it is made from base's.
  std::optional<std::string> backing_file;
  OnError on_error = OnError::kReport;
};

// Begins the job. On an I/O context, while the image is used and written.
Task<Result<std::shared_ptr<Job>>> start_stream(JobManager& manager, StreamOptions options);

}  // namespace ostler::block
