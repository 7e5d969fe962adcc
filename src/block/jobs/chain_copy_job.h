// A job that copies runs of an image and those below it, down to a base, and leaves out what it does not
// want.
#pragma once

#include <memory>

#include "block/client.h"
#include "block/jobs/copy_job.h"

namespace ostler::block {

class ChainCopyJob : public CopyJob {
 protected:
  using CopyJob::CopyJob;

  // Whether a run is copied.
  virtual bool is_wanted(const ChainStatus& status) const = 0;
  // Zeros in place of a run of the target.
  virtual Task<int> write_zero_run(uint64_t offset, uint64_t bytes) = 0;

  // The next wanted piece, for next(); what lies before it counts as done. Nodes are the caller's to keep.
  Task<Failure> next_wanted(NodePtr source, NodePtr base, Piece& piece);
  // Copies what is wanted of a piece. Within a pass of client_, or with users held back.
  Task<Failure> copy_wanted(NodePtr source, NodePtr base, NodePtr target, Piece piece, std::byte* buffer);

  std::shared_ptr<Client> client_;  // holds the job back while the graph changes

 private:
  uint64_t position_ = 0;
};

}  // namespace ostler::block
