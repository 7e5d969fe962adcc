#include "block/jobs/dirty_bitmap.h"

#include <algorithm>
#include <bit>

namespace ostler::block {

DirtyBitmap::DirtyBitmap(uint64_t disk_bytes, uint64_t granularity)
    : disk_bytes_(disk_bytes), shift_(static_cast<unsigned>(std::countr_zero(granularity))) {
  while ((disk_bytes_ >> shift_) / 8 > kMostBytes) ++shift_;
}

void DirtyBitmap::change_locked(uint64_t first, uint64_t end, bool value) {
  while (first < end) {
    const uint64_t index = first / kPieceBits, piece_end = std::min(end, (index + 1) * kPieceBits);
    auto found = pieces_.find(index);
    if (found == pieces_.end()) {
      if (!value) {
        first = piece_end;
        continue;
      }
      found = pieces_.emplace(index, std::make_unique<Piece>()).first;
    }
    Piece& piece = *found->second;
    while (first < piece_end) {
      const uint64_t bit = first % 64, here = std::min<uint64_t>(64 - bit, piece_end - first);
      const uint64_t mask = (here == 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1) << bit;
      uint64_t& word = piece.words[first % kPieceBits / 64];
      const uint64_t next = value ? word | mask : word & ~mask;
      const auto change = static_cast<uint64_t>(std::popcount(next ^ word));
      piece.count = value ? piece.count + change : piece.count - change;
      count_ = value ? count_ + change : count_ - change;
      word = next;
      first += here;
    }
    if (piece.count == 0) pieces_.erase(found);
  }
}

void DirtyBitmap::set(uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || offset >= disk_bytes_) return;
  const uint64_t last = offset + std::min(bytes, disk_bytes_ - offset) - 1;
  const std::lock_guard lock(mutex_);
  change_locked(offset >> shift_, (last >> shift_) + 1, true);
}

void DirtyBitmap::clear(uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  change_locked(offset >> shift_, ((offset + bytes - 1) >> shift_) + 1, false);
}

void DirtyBitmap::clear_whole(uint64_t offset, uint64_t bytes) {
  const uint64_t first = (offset + granularity() - 1) >> shift_;
  uint64_t end = offset + bytes;
  end = end >= disk_bytes_ ? (disk_bytes_ + granularity() - 1) >> shift_ : end >> shift_;
  const std::lock_guard lock(mutex_);
  if (first < end) change_locked(first, end, false);
}

bool DirtyBitmap::get_locked(uint64_t index) const {
  const auto found = pieces_.find(index / kPieceBits);
  return found != pieces_.end() && (found->second->words[index % kPieceBits / 64] >> (index % 64) & 1) != 0;
}

bool DirtyBitmap::any(uint64_t offset, uint64_t bytes) const {
  uint64_t begin, found;
  const std::lock_guard lock(mutex_);
  return next_locked(offset, bytes, begin, found) && begin < offset + bytes;
}

uint64_t DirtyBitmap::dirty_bytes() const {
  const std::lock_guard lock(mutex_);
  return std::min(count_ << shift_, disk_bytes_);
}

bool DirtyBitmap::next_locked(uint64_t offset, uint64_t most, uint64_t& begin, uint64_t& bytes) const {
  uint64_t at = offset >> shift_;
  for (auto piece = pieces_.lower_bound(at / kPieceBits);; ++piece) {
    if (piece == pieces_.end()) return false;
    at = std::max(at, piece->first * kPieceBits);
    const uint64_t piece_end = (piece->first + 1) * kPieceBits;
    while (at < piece_end) {
      const uint64_t word = piece->second->words[at % kPieceBits / 64] >> (at % 64);
      if (word != 0) {
        at += static_cast<uint64_t>(std::countr_zero(word));
        break;
      }
      at = (at / 64 + 1) * 64;
    }
    if (at < piece_end) break;
  }
  begin = std::max(offset, at << shift_);
  const uint64_t limit = std::min(disk_bytes_, most < disk_bytes_ - begin ? begin + most : disk_bytes_);
  uint64_t end = (at + 1) << shift_;
  while (end < limit && get_locked(end >> shift_)) end += granularity();
  bytes = std::min(end, limit) - begin;
  return bytes != 0;
}

bool DirtyBitmap::next(uint64_t offset, uint64_t most, uint64_t& begin, uint64_t& bytes) const {
  const std::lock_guard lock(mutex_);
  return next_locked(offset, most, begin, bytes);
}

bool DirtyBitmap::take(uint64_t offset, uint64_t most, uint64_t& begin, uint64_t& bytes) {
  const std::lock_guard lock(mutex_);
  most = std::max(most >> shift_, uint64_t{1}) << shift_;
  if (!next_locked(offset >> shift_ << shift_, most, begin, bytes)) return false;
  change_locked(begin >> shift_, ((begin + bytes - 1) >> shift_) + 1, false);
  return true;
}

}  // namespace ostler::block
