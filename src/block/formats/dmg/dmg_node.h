// The format "dmg" (Apple disk images), read-only: chunks of the disk, packed by zlib or bzip2, raw or zero.
#pragma once

#include <vector>

#include "block/driver.h"
#include "block/formats/dmg/dmg_chunks.h"
#include "block/mutex.h"

namespace ostler::block {

class DmgNode final : public Node {
 public:
  static Task<Result<NodePtr>> open(OpenRequest request);
  DmgNode() : Node("dmg") {}

  Task<int> read(uint64_t offset, Buffers to) override;
  Task<int> write(uint64_t, Buffers) override { co_return -EROFS; }
  Task<int> write_zeroes(uint64_t, uint64_t, ZeroFlags) override { co_return -EROFS; }
  Task<int> flush() override { co_return 0; }
  Task<int> block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) override;
  uint64_t size() const override { return chunks_.back().end(); }
  bool read_only() const override { return true; }
  std::vector<const Edge*> children() const override { return {&file_}; }

 private:
  static constexpr size_t kNone = ~size_t{0};
  // The first chunk that ends behind `offset`, which lies within the disk.
  const DmgChunk& chunk_at(uint64_t offset) const;
  // The part [from, from + the buffers' size) of an unpacked chunk.
  Task<int> read_packed(const DmgChunk& chunk, uint64_t from, Buffers to);

  Edge file_;
  std::vector<DmgChunk> chunks_;
  Mutex unpacking_;  // of what follows
  size_t kept_ = kNone;
  std::vector<std::byte> unpacked_;  // the chunk `kept_`
};

}  // namespace ostler::block
