#include "block/jobs/mirror_filter.h"

#include <nlohmann/json.hpp>

#include "base/bytes.h"

namespace ostler::block {

MirrorFilter::MirrorFilter(std::string driver, std::shared_ptr<DirtyBitmap> dirty,
                           std::function<void()> on_write)
    : JobFilter(std::move(driver)), dirty_(std::move(dirty)), on_write_(std::move(on_write)) {}

void MirrorFilter::write_to_target(bool may_unmap, std::function<void(int)> on_target_error) {
  may_unmap_ = may_unmap;
  on_target_error_ = std::move(on_target_error);
  blocking_ = true;
}

Result<void> MirrorFilter::connect_target(NodePtr target, Permissions permissions) {
  TRY_ASSIGN(target_, Edge::attach(*this, std::move(target), "target", Role::kData, permissions));
  return {};
}

std::vector<const Edge*> MirrorFilter::children() const {
  if (target_) return {&child_, &target_};
  return {&child_};
}

nlohmann::json MirrorFilter::options() const {
  return child_->options();
}

void MirrorFilter::mark(uint64_t offset, uint64_t bytes) {
  dirty_->set(offset, bytes);
  if (want_wake_.load() && want_wake_.exchange(false)) on_write_();
}

void MirrorFilter::written_to_both(uint64_t offset, uint64_t bytes, int error) {
  if (error == 0) {
    dirty_->clear_whole(offset, bytes);
    return;
  }
  mark(offset, bytes);
  on_target_error_(error);
}

// Whole granules, so that the two disks never differ behind a clear bit.
Task<RangeLocks::Guard> MirrorFilter::hold_granules(uint64_t offset, uint64_t bytes) {
  const uint64_t granule = dirty_->granularity(), first = align_down(offset, granule);
  return hold(first, align_up(offset + bytes, granule) - first);
}

// What a failed write has left in the source is not known: it is copied again.
Task<int> MirrorFilter::write(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  if (!blocking_) {
    const int error = co_await child_->write(offset, from);
    mark(offset, bytes);
    co_return error;
  }
  const auto range = co_await hold_granules(offset, bytes);
  const int error = co_await child_->write(offset, from);
  if (error != 0) {
    mark(offset, bytes);
    co_return error;
  }
  const int copied = co_await target_->write(offset, from);
  written_to_both(offset, bytes, copied);
  co_return 0;
}

Task<int> MirrorFilter::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (!blocking_) {
    const int error = co_await child_->write_zeroes(offset, bytes, flags);
    if (error != -ENOTSUP) mark(offset, bytes);
    co_return error;
  }
  const auto range = co_await hold_granules(offset, bytes);
  const int error = co_await child_->write_zeroes(offset, bytes, flags);
  if (error == -ENOTSUP) co_return error;
  if (error != 0) {
    mark(offset, bytes);
    co_return error;
  }
  const ZeroFlags same = {.may_unmap = flags.may_unmap && may_unmap_};
  const int copied = co_await write_zeroes_anyhow(*target_, offset, bytes, same);
  written_to_both(offset, bytes, copied);
  co_return 0;
}

// What is left of discarded bytes is the node's choice: they are copied again. A write to both that is under
// way has its turn first, or its end would clear the mark.
Task<int> MirrorFilter::discard(uint64_t offset, uint64_t bytes) {
  RangeLocks::Guard range;
  if (blocking_) range = co_await hold_granules(offset, bytes);
  const int error = co_await child_->discard(offset, bytes);
  mark(offset, bytes);
  co_return error;
}

Task<int> MirrorFilter::write_compressed(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  RangeLocks::Guard range;
  if (blocking_) range = co_await hold_granules(offset, bytes);
  const int error = co_await child_->write_compressed(offset, from);
  if (error != -ENOTSUP) mark(offset, bytes);
  co_return error;
}

}  // namespace ostler::block
