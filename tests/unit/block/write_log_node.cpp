#include "write_log_node.h"

#include <algorithm>
#include <cstring>
#include <deque>

namespace ostler::block::test {
namespace {

constexpr uint64_t kSector = 512;

}  // namespace

std::vector<WriteRecord> WriteLogNode::records() const {
  const std::lock_guard lock(mutex_);
  return records_;
}

size_t WriteLogNode::count() const {
  const std::lock_guard lock(mutex_);
  return records_.size();
}

void WriteLogNode::keep(WriteRecord record) {
  const std::lock_guard lock(mutex_);
  records_.push_back(std::move(record));
}

Task<int> WriteLogNode::write(uint64_t offset, Buffers from) {
  WriteRecord record{WriteRecord::Kind::kWrite, offset, total_bytes(from), {}};
  record.data.resize(record.bytes);
  copy_from(from, record.data.data());
  const int error = co_await child_->write(offset, from);
  if (error == 0) keep(std::move(record));
  co_return error;
}

Task<int> WriteLogNode::flush() {
  keep({WriteRecord::Kind::kFlushBegin, 0, 0, {}});
  const int error = co_await child_->flush();
  if (error == 0) keep({WriteRecord::Kind::kFlushEnd, 0, 0, {}});
  co_return error;
}

Task<int> WriteLogNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const int error = co_await child_->write_zeroes(offset, bytes, flags);
  if (error == 0) keep({WriteRecord::Kind::kZero, offset, bytes, {}});
  co_return error;
}

Task<int> WriteLogNode::discard(uint64_t offset, uint64_t bytes) {
  const int error = co_await child_->discard(offset, bytes);
  // Zeros beyond the end make a file grow, discards do not.
  const uint64_t end = child_->size();
  if (error == 0 && offset < end) keep({WriteRecord::Kind::kZero, offset, std::min(bytes, end - offset), {}});
  co_return error;
}

Task<Result<void>> WriteLogNode::truncate(uint64_t size, Preallocation preallocation) {
  auto result = co_await child_->truncate(size, preallocation);
  if (result) keep({WriteRecord::Kind::kTruncate, size, 0, {}});
  co_return result;
}

std::vector<std::byte> image_after_power_cut(std::vector<std::byte> image,
                                             const std::vector<WriteRecord>& records, size_t cut,
                                             std::mt19937* random) {
  // A flush promises what was done before it began; of those that overlap, the one that began first ends
  // first.
  size_t promised = 0;
  std::deque<size_t> begun;
  for (size_t i = 0; i < cut; ++i) {
    if (records[i].kind == WriteRecord::Kind::kFlushBegin) begun.push_back(i);
    if (records[i].kind == WriteRecord::Kind::kFlushEnd && !begun.empty()) {
      promised = begun.front();
      begun.pop_front();
    }
  }
  for (size_t i = 0; i < cut; ++i) {
    const WriteRecord& record = records[i];
    const bool is_sure = random == nullptr || i < promised;
    if (!is_sure && (*random)() % 2 == 0) continue;
    const uint64_t end = record.offset + record.bytes;
    switch (record.kind) {
      case WriteRecord::Kind::kTruncate:
        image.resize(record.offset);
        break;
      case WriteRecord::Kind::kZero:
        if (image.size() < end) image.resize(end);
        std::fill(image.begin() + static_cast<ptrdiff_t>(record.offset),
                  image.begin() + static_cast<ptrdiff_t>(end), std::byte{0});
        break;
      case WriteRecord::Kind::kWrite:
        if (image.size() < end) image.resize(end);
        for (uint64_t at = 0; at < record.bytes; at += kSector) {
          if (!is_sure && i + 1 == cut && (*random)() % 2 == 0) continue;  // torn
          std::memcpy(image.data() + record.offset + at, record.data.data() + at,
                      std::min(kSector, record.bytes - at));
        }
        break;
      case WriteRecord::Kind::kFlushBegin:
      case WriteRecord::Kind::kFlushEnd:
        break;
    }
  }
  return image;
}

}  // namespace ostler::block::test
