#include "block/jobs/job_filter.h"

namespace ostler::block {

Task<Result<void>> JobFilter::truncate(uint64_t, Preallocation) {
  co_return Error(ErrorKind::kBusy, filename() + " cannot change its size while a job works on it", EBUSY);
}

Task<int> StreamFilter::write(uint64_t offset, Buffers from) {
  const auto range = co_await ranges_.lock(offset, total_bytes(from), RangeLocks::Mode::kShared);
  co_return co_await child_->write(offset, from);
}

Task<int> StreamFilter::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const auto range = co_await ranges_.lock(offset, bytes, RangeLocks::Mode::kShared);
  co_return co_await child_->write_zeroes(offset, bytes, flags);
}

Task<int> StreamFilter::discard(uint64_t offset, uint64_t bytes) {
  const auto range = co_await ranges_.lock(offset, bytes, RangeLocks::Mode::kShared);
  co_return co_await child_->discard(offset, bytes);
}

}  // namespace ostler::block
