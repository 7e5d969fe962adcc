#include "block/jobs/chain_copy_job.h"

#include <algorithm>

namespace ostler::block {

Task<CopyJob::Failure> ChainCopyJob::next_wanted(NodePtr source, NodePtr base, Piece& piece) {
  while (position_ < source->size() && !cancelled() && !pause_wanted()) {
    const Client::Pass pass = co_await client_->pass();
    ChainStatus status;
    const uint64_t step = std::min(source->size() - position_, kStatusStep);
    const int error = co_await chain_status(source, base, position_, step, StatusDetail::kQuick, status);
    if (error != 0) co_return Failure{.error = error, .is_read = true, .offset = position_};
    if (is_wanted(status)) {
      piece.offset = position_;
      piece.bytes = std::min(status.bytes, kPiece - position_ % kPiece);
      position_ += piece.bytes;
      co_return Failure();
    }
    position_ += status.bytes;
    advance(status.bytes);
  }
  co_return Failure();
}

Task<CopyJob::Failure> ChainCopyJob::copy_wanted(NodePtr source, NodePtr base, NodePtr target, Piece piece,
                                                 std::byte* buffer) {
  const uint64_t end = piece.offset + piece.bytes;
  for (uint64_t at = piece.offset; at < end;) {
    Failure failure = {.is_read = true, .offset = at};
    ChainStatus status;
    failure.error = co_await chain_status(source, base, at, end - at, StatusDetail::kPrecise, status);
    if (failure.error != 0) co_return failure;
    const uint64_t run = std::min(status.bytes, end - at);
    if (is_wanted(status)) {
      bool zero = status.zero;
      if (!zero) {
        failure.error = co_await read_bytes(*source, at, buffer, run);
        if (failure.error != 0) co_return failure;
        zero = all_zeroes(buffer, run);
      }
      failure.is_read = false;
      if (zero)
        failure.error = co_await write_zero_run(at, run);
      else
        failure.error = co_await write_bytes(*target, at, buffer, run);
      if (failure.error != 0) co_return failure;
    }
    at += run;
  }
  co_return Failure();
}

}  // namespace ostler::block
