#include "block/jobs/copy_job.h"

#include <fmt/format.h>

namespace ostler::block {
namespace {

constexpr uint64_t kRest = 100'000'000;  // ns before a failed request is tried again by itself

}  // namespace

Error CopyJob::failed(const Failure& failure) const {
  return errno_error(fmt::format("job '{}': {} failed at offset {}", id(),
                                 failure.is_read ? "reading" : "writing", failure.offset),
                     -failure.error);
}

OnError CopyJob::judge(const Failure& failure) {
  const OnError action =
      tell_error(failure.is_read ? on_read_error_ : on_write_error_, failure.is_read, failure.error);
  if (action == OnError::kReport && !failure_) failure_ = failure;
  if (action == OnError::kIgnore) rest_first_ = true;
  return action;
}

Task<int> CopyJob::copy_one(Piece piece) {
  AlignedBuffer buffer;
  if (!spare_.empty()) {
    buffer = std::move(spare_.back());
    spare_.pop_back();
  }
  if (buffer.size() < piece.bytes) buffer = AlignedBuffer(piece.bytes);
  Failure failure = {.error = -ENOMEM, .is_read = true, .offset = piece.offset};
  if (buffer) {
    failure = co_await copy(piece, buffer.data());
    spare_.push_back(std::move(buffer));
  }
  if (failure.error == 0 || cancelled()) co_return 0;
  const OnError action = judge(failure);
  if (action == OnError::kIgnore && skip_ignored_) {
    any_skipped_ = true;
    advance(piece.bytes);
  } else if (action != OnError::kReport) {
    retry_.push_back(piece);
  }
  co_return 0;
}

Task<Result<void>> CopyJob::copy_all() {
  TaskGroup group(parallel_);
  failure_.reset();
  for (;;) {
    if (pause_wanted()) co_await group.wait();
    const bool go_on = co_await pause_point();
    if (!go_on || failure_) break;
    Piece piece;
    if (!retry_.empty()) {
      if (rest_first_) {
        rest_first_ = false;
        co_await rest(kRest);
        continue;
      }
      piece = retry_.back();
      retry_.pop_back();
    } else {
      const Failure failure = co_await next(piece);
      if (failure.error != 0) {
        const OnError action = judge(failure);
        if (action == OnError::kIgnore) co_await rest(kRest);
        continue;
      }
    }
    if (piece.bytes == 0) {
      if (pause_wanted() || cancelled()) continue;
      co_await group.wait();
      if (retry_.empty() && !failure_) break;
      continue;
    }
    const bool booked = co_await limit_speed(piece.bytes);
    if (!booked)
      retry_.push_back(piece);
    else
      co_await group.start(copy_one(piece));
  }
  co_await group.wait();
  if (failure_ && !cancelled()) co_return failed(*failure_);
  co_return Result<void>();
}

}  // namespace ostler::block
