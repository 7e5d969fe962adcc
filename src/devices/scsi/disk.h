// A disk (SBC-3) over a block::Backend. Commands that the backend finishes at once complete on the caller's
// thread, the others on the backend's.
#pragma once

#include <atomic>
#include <memory>

#include "block/backend.h"
#include "devices/scsi/logical_unit.h"

namespace ostler::scsi {

class Disk final : public LogicalUnit {
 public:
  // The backend holds at least one block of options.logical_block_size.
  Disk(std::shared_ptr<block::Backend> node, const Options& options);
  ~Disk() override;

  void reset() override;
  void pause_guest(int error) override { node_->pause_guest(error); }
  void state(state::Archive& archive) override;

  // Limits that the guest is told (SBC-3 §6.5.3).
  static constexpr uint32_t kMostUnmapRanges = 64;
  static constexpr uint64_t kMostWriteSameBytes = 64u << 20;

 private:
  using Handle = std::shared_ptr<Command>;
  std::optional<Sense> take_attention(uint8_t opcode) override;
  void perform(const Handle& command) override;
  std::optional<Bytes> product_data(uint8_t page) const override;

  // Commands. Addresses and lengths in blocks.
  void read(const Handle& command, uint64_t first, uint64_t count);
  void write(const Handle& command, uint64_t first, uint64_t count, bool force_unit_access);
  void verify(const Handle& command, uint64_t first, uint64_t count);
  void flush(const Handle& command);
  void synchronize_cache(const Handle& command, uint64_t first, uint64_t count);
  void unmap(const Handle& command);
  void write_same(const Handle& command, uint64_t first, uint64_t count, bool no_data);
  void read_capacity_10(const Handle& command);
  void read_capacity_16(const Handle& command);
  void start_stop(const Handle& command);
  void mode_sense(const Handle& command, bool ten);
  void mode_select(const Handle& command, bool ten);

  void next_discard(const Handle& command, int error);
  void next_pattern(const Handle& command, int error);
  // The data of a write command are with the backend.
  void written(const Handle& command, int error, bool flush);
  void ended(const Handle& command, bool is_read, int error);
  // False: the command has been ended.
  bool in_range(const Handle& command, uint64_t first, uint64_t count);
  bool writable(const Handle& command);
  // A mode page, as it is now; empty: there is none.
  Bytes mode_page(uint8_t page) const;
  static Bytes changeable(Bytes page);

  uint64_t blocks() const { return node_->size() / block_; }
  bool thin() const { return !node_->read_only() && options().discard_granularity != 0; }
  bool initial_writeback() const;
  uint64_t most_unmap_blocks() const;

  const std::shared_ptr<block::Backend> node_;
  const uint32_t block_;
  std::atomic<bool> reset_attention_{true}, capacity_attention_{false};
  std::atomic<bool> writeback_{true};
  std::atomic<bool> stopped_{false};
};

}  // namespace ostler::scsi
