// snapshot=on: writes go to a temporary file without a name, which vanishes with the process; the base stays
// as it is. The disk is cut into granules; one bit each tells which file holds it.
#pragma once

#include <atomic>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "base/result.h"
#include "block/file_node.h"

namespace ostler::block {

class OverlayNode final : public BlockingNode {
 public:
  // The temporary file lies in `folder`, or, if empty, in $TMPDIR or /var/tmp.
  static Result<std::shared_ptr<OverlayNode>> create(WorkerPool& pool, std::shared_ptr<BlockingNode> base,
                                                     const std::string& folder = {});

  const std::string& name() const override { return base_->name(); }
  uint64_t size() const override { return base_->size(); }
  bool read_only() const override { return false; }
  // 4 KiB to 64 GiB of disk, then larger, so that the map stays within 2 MiB.
  uint64_t granule() const { return granule_; }

  int read_now(uint64_t offset, std::span<const iovec> iov, bool wait) override;
  int write_now(uint64_t offset, std::span<const iovec> iov, bool wait) override;
  int flush_now() override { return 0; }  // nobody can read the file after us
  int discard_now(uint64_t offset, uint64_t length) override;
  int write_zeroes_now(uint64_t offset, uint64_t length, bool may_unmap) override;

  OverlayNode(WorkerPool& pool, std::shared_ptr<BlockingNode> base, std::shared_ptr<FileNode> changes,
              uint64_t granule);

 private:
  bool changed(uint64_t index) const { return (map_[index / 64].load() >> (index % 64) & 1) != 0; }
  void set_changed(uint64_t first, uint64_t end);
  // Brings the granule that holds `offset` into the changes file. copy_mutex_ held alone.
  int copy_up_locked(uint64_t index);
  // Makes [offset, offset + length) writable in the changes file but for its granules' bits: copies the
  // partial ones.
  int prepare(uint64_t offset, uint64_t length);
  template <class Write>
  int change(uint64_t offset, uint64_t length, Write&& write);

  const std::shared_ptr<BlockingNode> base_;
  const std::shared_ptr<FileNode> changes_;
  const uint64_t granule_;
  std::vector<std::atomic<uint64_t>> map_;
  // Writers of whole granules share it, copying a granule up excludes them: else the copy could put old bytes
  // over a concurrent write's.
  std::shared_mutex copy_mutex_;
};

}  // namespace ostler::block
