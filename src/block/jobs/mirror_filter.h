// What a mirror puts over its source: notes what users write, or writes it to the target as well.
#pragma once

#include <atomic>
#include <functional>

#include "block/jobs/dirty_bitmap.h"
#include "block/jobs/job_filter.h"

namespace ostler::block {

class MirrorFilter final : public JobFilter {
 public:
  // `dirty` is told of writes, `on_write` after that, when `want_wake` asked for it.
  MirrorFilter(std::string driver, std::shared_ptr<DirtyBitmap> dirty, std::function<void()> on_write);

  // Also writes to the target while users wait ("write-blocking"). A failure there is not theirs: it is told
  // to `on_target_error`, and the place is dirty. Before use.
  void write_to_target(bool may_unmap, std::function<void(int)> on_target_error);
  // Ends that.
  void give_up_target() { blocking_ = false; }
  // The target is drained with the source. The job's permissions on it are this edge's.
  Result<void> connect_target(NodePtr target, Permissions permissions);
  Edge& target() { return target_; }

  Task<RangeLocks::Guard> hold(uint64_t offset, uint64_t bytes) {
    return ranges_.lock(offset, bytes, RangeLocks::Mode::kExclusive);
  }
  // The next write calls on_write.
  void want_wake() { want_wake_ = true; }

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  std::vector<const Edge*> children() const override;
  nlohmann::json options() const override;
  void cancel() override { child_->cancel(); }

 private:
  void mark(uint64_t offset, uint64_t bytes);
  Task<RangeLocks::Guard> hold_granules(uint64_t offset, uint64_t bytes);
  // `error`: of the target's request.
  void written_to_both(uint64_t offset, uint64_t bytes, int error);

  const std::shared_ptr<DirtyBitmap> dirty_;
  const std::function<void()> on_write_;
  std::function<void(int)> on_target_error_;
  std::atomic<bool> want_wake_{false}, blocking_{false};
  bool may_unmap_ = false;
  Edge target_;
};

}  // namespace ostler::block
