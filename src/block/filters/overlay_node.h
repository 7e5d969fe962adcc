// snapshot=on: writes go to a temporary file without a name, which vanishes with the process; the base stays
// as it is. The disk is cut into granules; one bit each tells which file holds it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "block/file/file_node.h"
#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {

class OverlayNode final : public Node {
 public:
  // The temporary file lies in `folder`, or, if empty, in $TMPDIR or /var/tmp.
  static Result<std::shared_ptr<OverlayNode>> create(NodePtr base, const std::string& folder = {});

  uint64_t size() const override { return size_; }
  bool read_only() const override { return false; }
  std::string filename() const override { return base_->filename(); }
  std::vector<const Edge*> children() const override { return {&changes_, &base_}; }
  // 4 KiB to 64 GiB of disk, then larger, so that the map stays within 2 MiB.
  uint64_t granule() const { return granule_; }

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> flush() override;  // nobody can read the file after us
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  int try_read(uint64_t offset, Buffers to) override;
  int try_write(uint64_t offset, Buffers from) override;

  OverlayNode(uint64_t size, uint64_t granule);

 private:
  bool changed(uint64_t index) const { return (map_[index / 64].load() >> (index % 64) & 1) != 0; }
  void set_changed(uint64_t offset, uint64_t bytes);
  // The end of the run from `begin` on, at most `end`, that lies in the same file.
  uint64_t run_end(uint64_t begin, uint64_t end) const;
  bool has_partial_granule(uint64_t offset, uint64_t bytes) const;
  // Brings the granule into the changes file; copying_ held alone.
  Task<int> copy_up(uint64_t index);
  // Copies granules which [offset, offset + bytes) covers in part.
  Task<int> prepare(uint64_t offset, uint64_t bytes);

  const uint64_t size_;
  const uint64_t granule_;
  Edge base_, changes_;
  std::vector<std::atomic<uint64_t>> map_;
  // Writers of whole granules share it, copying a granule up excludes them: else the copy could put old bytes
  // over a concurrent write's.
  SharedMutex copying_;
};

}  // namespace ostler::block
