// What a backup puts over its source ("copy-before-write"): before a user's write reaches bytes that are not
// in the target yet, it copies them there.
#pragma once

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>

#include "block/jobs/dirty_bitmap.h"
#include "block/jobs/job_filter.h"

namespace ostler::block {

enum class OnCbwError {
  kBreakGuestWrite,  // the user's write fails as the copy did
  kBreakSnapshot,    // the write is done; the target is of no use any more
};

class BackupFilter final : public JobFilter {
 public:
  struct Settings {
    bool compress = false;
    OnCbwError on_error = OnCbwError::kBreakSnapshot;
  };
  // `left`: granules that are to be copied still; cleared as they are. A granule is what is copied at once.
  BackupFilter(std::shared_ptr<DirtyBitmap> left, Settings settings);
  Result<void> connect_target(NodePtr target);
  Edge& target() { return target_; }
  // Called once, when the target has become useless by a user's write; any thread.
  void on_broken(std::function<void(int)> handler) { on_broken_ = std::move(handler); }
  void give_up() { break_with(-ECANCELED); }
  // What it became useless by, a negative errno; 0: it is of use.
  int broken() const { return broken_; }

  struct Failure {
    int error = 0;
    bool is_read = false;
    uint64_t offset = 0;
  };
  // Copies what is left of whole granules. `buffer` has `bytes`.
  Task<Failure> copy(uint64_t offset, uint64_t bytes, std::byte* buffer);

  // The disk as it was when the filter was put there.
  Task<int> read_snapshot(uint64_t offset, Buffers to);

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  std::vector<const Edge*> children() const override;
  nlohmann::json options() const override;
  void cancel() override { child_->cancel(); }

 private:
  // False: it was broken before.
  bool break_with(int error) {
    int none = 0;
    return broken_.compare_exchange_strong(none, error);
  }
  Task<int> before_write(uint64_t offset, uint64_t bytes);
  Task<Failure> copy_locked(uint64_t offset, uint64_t bytes, std::byte* buffer);
  Task<int> write_target(uint64_t offset, uint64_t bytes, const std::byte* from);
  Task<int> zero_target(uint64_t offset, uint64_t bytes);

  const std::shared_ptr<DirtyBitmap> left_;
  const Settings settings_;
  std::function<void(int)> on_broken_;
  std::atomic<int> broken_{0};
  Edge target_;
};

// "snapshot-access": reads the disk as it was when the backup began, from the target where it is there and
// else from the source. -EIO after the backup's end.
class SnapshotAccessNode final : public Node {
 public:
  SnapshotAccessNode(uint64_t size, std::string filename);
  Result<void> connect(std::shared_ptr<BackupFilter> filter);
  // The filter is drained.
  void end();

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t, Buffers) override { co_return -EROFS; }
  Task<int> flush() override { co_return 0; }
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -EROFS; }
  uint64_t size() const override { return size_; }
  bool read_only() const override { return true; }
  std::string filename() const override { return filename_; }
  std::vector<const Edge*> children() const override;
  nlohmann::json options() const override;

 private:
  const uint64_t size_;
  const std::string filename_;
  std::shared_ptr<BackupFilter> filter_;
  Edge source_;
};

}  // namespace ostler::block
