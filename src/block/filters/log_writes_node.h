// The filter "blklogwrites": all that users write goes to a second node too, as a log by which the disk can
// be replayed up to any request. The format is that of Linux's device-mapper target log-writes
// (Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c: on-disk structures):
//
//     sector 0   magic, version, count of entries, bytes of a sector
//     sector 1…  an entry of one sector: where, how many sectors, flags; then the data, if it has any
//
// Requests are logged when they are done, one at a time. Numbers are little-endian.
#pragma once

#include <atomic>

#include "block/filters/filter.h"
#include "block/mutex.h"

namespace ostler::block {

class LogWritesNode final : public FilterNode {
 public:
  static constexpr uint64_t kMagic = 0x6a736677736872, kVersion = 1;
  enum Flag : uint64_t { kFlushed = 1, kDiscarded = 4 };

  // `sector`: bytes, a power of two of 512 or more. The count in the log's first sector is stored with each
  // flush and after `interval` entries.
  LogWritesNode(uint64_t sector, uint64_t interval)
      : FilterNode("blklogwrites", "file"), sector_(sector), interval_(interval) {}
  Result<void> connect_log(NodePtr log, Permissions permissions);
  // An empty log, or what follows the entries of the one that is there. To be called once.
  Task<Result<void>> begin_log();
  Task<Result<void>> continue_log();

  Task<int> write(uint64_t offset, Buffers from) override;
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override;
  Task<int> write_compressed(uint64_t offset, Buffers from) override;
  Task<int> discard(uint64_t offset, uint64_t bytes) override;
  Task<int> flush() override;
  Task<Result<void>> close() override;
  Limits limits() const override;
  std::vector<const Edge*> children() const override { return {&child_, &log_}; }
  nlohmann::json options() const override;

 private:
  Task<int> log_data(uint64_t offset, Buffers from);
  Task<int> add_entry(uint64_t first, uint64_t sectors, uint64_t flags, Buffers data);
  Task<int> store_count();

  Edge log_;
  uint64_t sector_;
  const uint64_t interval_;
  Mutex logging_;
  // Of logging_:
  uint64_t next_ = 0;  // where the next entry goes, bytes
  uint64_t entries_ = 0;
  uint64_t unstored_ = 0;  // entries since the count was stored
};

}  // namespace ostler::block
