// Commands that name ranges without sending what goes there: UNMAP, WRITE SAME (SBC-3 §5.36, §5.43, §5.44).
#include <algorithm>

#include "devices/scsi/disk.h"

namespace ostler::scsi {
namespace {

constexpr size_t kUnmapHeader = 8, kUnmapDescriptor = 16;
// Blocks of WRITE SAME that are no zeros are written from a buffer of about this size, many times at once: a
// guest that has all its queues do so costs little memory.
constexpr uint64_t kPatternBytes = 16 * 1024;
constexpr uint64_t kMostPieces = 1024;

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte each) { return each == std::byte{0}; });
}

}  // namespace

uint64_t Disk::most_unmap_blocks() const {
  return std::clamp<uint64_t>(options().max_unmap_size / block_, 1, 0xffff'fffe);
}

void Disk::unmap(const Handle& command) {
  if (!thin() && !node_->read_only()) return fail(command, sense::kInvalidOpcode);
  if ((command->byte(1) & 1) != 0) return fail(command, sense::kInvalidField);  // ANCHOR
  if (!writable(command)) return;
  const uint64_t length = command->field(7, 2);
  if (length == 0) return good(command);
  if (length < kUnmapHeader) return fail(command, sense::kParameterListLength);
  command->overrun = length > command->out_bytes;
  if (command->overrun) return good(command);
  const Bytes list = command->sent(length);
  const uint64_t listed = big_endian(list, 2, 2) / kUnmapDescriptor;
  const uint64_t given = (length - kUnmapHeader) / kUnmapDescriptor;
  const uint64_t count = std::min(listed, given);
  if (count > kMostUnmapRanges) return fail(command, sense::kInvalidParameter);
  uint64_t total = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const size_t at = kUnmapHeader + i * kUnmapDescriptor;
    const uint64_t first = big_endian(list, at, 8), blocks = big_endian(list, at + 8, 4);
    if (!in_range(command, first, blocks)) return;
    total += blocks;
    if (total > most_unmap_blocks()) return fail(command, sense::kInvalidParameter);
    if (blocks != 0) command->ranges.push_back({first * block_, blocks * block_});
  }
  command->transferred = length;
  next_discard(command, 0);
}

// One range after the other.
void Disk::next_discard(const Handle& command, int error) {
  if (error != 0 || command->next_range == command->ranges.size())
    return written(command, error, !writeback_);
  const Command::Range range = command->ranges[command->next_range++];
  node_->discard(range.offset, range.bytes,
                 [this, command](int range_error) { next_discard(command, range_error); });
}

void Disk::write_same(const Handle& command, uint64_t first, uint64_t count, bool no_data) {
  const bool unmap = (command->byte(1) & 8) != 0;
  // Protection information, ANCHOR, LBDATA and PBDATA; and "to the end" (WSNZ).
  if ((command->byte(1) & 0xf6) != 0 || count == 0 || (unmap && !thin() && !node_->read_only()))
    return fail(command, sense::kInvalidField);
  if (!writable(command) || !in_range(command, first, count)) return;
  const uint64_t bytes = count * block_;
  if (bytes > kMostWriteSameBytes) return fail(command, sense::kInvalidField);
  command->overrun = !no_data && command->out_bytes < block_;
  if (command->overrun) return good(command);
  Bytes block;
  if (!no_data) {
    block = command->sent(block_);
    command->transferred = block_;
  }
  if (all_zero(block)) {
    node_->write_zeroes(first * block_, bytes, unmap,
                        [this, command](int error) { written(command, error, !writeback_); });
    return;
  }
  const uint64_t repeat = std::min(bytes, std::max<uint64_t>(kPatternBytes / block_, 1) * block_);
  command->pattern.reserve(repeat);
  while (command->pattern.size() < repeat)
    command->pattern.insert(command->pattern.end(), block.begin(), block.end());
  command->ranges.push_back({first * block_, bytes});
  next_pattern(command, 0);
}

void Disk::next_pattern(const Handle& command, int error) {
  Command::Range& left = command->ranges.front();
  if (error != 0 || left.bytes == 0) return written(command, error, !writeback_);
  std::vector<iovec> pieces;
  uint64_t bytes = 0;
  while (bytes < left.bytes && pieces.size() < kMostPieces) {
    const size_t length = std::min<uint64_t>(command->pattern.size(), left.bytes - bytes);
    pieces.push_back({command->pattern.data(), length});
    bytes += length;
  }
  const uint64_t offset = left.offset;
  left.offset += bytes;
  left.bytes -= bytes;
  node_->write(offset, std::move(pieces),
               [this, command](int piece_error) { next_pattern(command, piece_error); });
}

}  // namespace ostler::scsi
