// A job that copies pieces of a disk, several side by side. Memory: kPiece for each in flight.
#pragma once

#include <vector>

#include "block/buffers.h"
#include "block/jobs/job.h"

namespace ostler::block {

class CopyJob : public Job {
 public:
  static constexpr uint64_t kPiece = 1 << 20;
  // How far one look at what is allocated goes.
  static constexpr uint64_t kStatusStep = uint64_t{256} << 20;

 protected:
  using Job::Job;

  struct Piece {
    uint64_t offset = 0, bytes = 0;
  };
  struct Failure {
    int error = 0;  // negative errno
    bool is_read = false;
    uint64_t offset = 0;
  };
  // The next piece, kPiece at most; no bytes: there is none now. It returns early when it is controlled.
  virtual Task<Failure> next(Piece& piece) = 0;
  // Any number at once. `buffer` has piece.bytes.
  virtual Task<Failure> copy(Piece piece, std::byte* buffer) = 0;
  // Answers to errors of reading and of writing.
  OnError on_read_error_ = OnError::kReport, on_write_error_ = OnError::kReport;
  unsigned parallel_ = 8;
  bool skip_ignored_ = false;  // errors that are ignored are not tried again

  // Until there are no more pieces, or an error that is to be reported. Returns early when cancelled.
  Task<Result<void>> copy_all();
  bool any_skipped() const { return any_skipped_; }
  Error failed(const Failure& failure) const;

 private:
  Task<int> copy_one(Piece piece);
  OnError judge(const Failure& failure);

  std::vector<AlignedBuffer> spare_;
  std::vector<Piece> retry_;
  bool rest_first_ = false;  // an ignored error: not at once again
  bool any_skipped_ = false;
  std::optional<Failure> failure_;
};

}  // namespace ostler::block
