#include "block/buffers.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace ostler::block {
namespace {

constexpr size_t kAlignment = 4096;

}  // namespace

uint64_t total_bytes(Buffers buffers) {
  uint64_t bytes = 0;
  for (const iovec& piece : buffers) bytes += piece.iov_len;
  return bytes;
}

void fill_zeroes(Buffers buffers, uint64_t from) {
  for (const iovec& piece : buffers) {
    if (from < piece.iov_len) std::memset(static_cast<char*>(piece.iov_base) + from, 0, piece.iov_len - from);
    from -= std::min<uint64_t>(from, piece.iov_len);
  }
}

bool all_zeroes(const void* data, size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  const size_t head = std::min<size_t>(size, 16);
  for (size_t i = 0; i < head; ++i)
    if (bytes[i] != 0) return false;
  // The rest equals itself moved by 16 bytes: memcmp is as fast as the machine compares.
  return size == head || std::memcmp(bytes, bytes + head, size - head) == 0;
}

bool all_zeroes(Buffers buffers) {
  return std::ranges::all_of(buffers,
                             [](const iovec& piece) { return all_zeroes(piece.iov_base, piece.iov_len); });
}

void copy_to(Buffers buffers, const void* from) {
  const auto* source = static_cast<const char*>(from);
  for (const iovec& piece : buffers) {
    if (piece.iov_len == 0) continue;  // The address of an empty piece may be null: not for memcpy().
    std::memcpy(piece.iov_base, source, piece.iov_len);
    source += piece.iov_len;
  }
}

void copy_from(Buffers buffers, void* to) {
  auto* target = static_cast<char*>(to);
  for (const iovec& piece : buffers) {
    if (piece.iov_len == 0) continue;
    std::memcpy(target, piece.iov_base, piece.iov_len);
    target += piece.iov_len;
  }
}

Slice::Slice(Buffers buffers, uint64_t from, uint64_t length) {
  size_t first = 0;
  while (first < buffers.size() && from >= buffers[first].iov_len) from -= buffers[first++].iov_len;
  size_t end = first;
  for (uint64_t left = from + length; left != 0 && end < buffers.size(); ++end)
    left -= std::min<uint64_t>(left, buffers[end].iov_len);
  const size_t count = end - first;
  if (count > std::size(few_)) many_ = std::make_unique<iovec[]>(count);
  iovec* const to = many_ ? many_.get() : few_;
  for (size_t i = first; i < end; ++i) {
    const uint64_t take = std::min<uint64_t>(buffers[i].iov_len - from, length);
    if (take != 0) to[count_++] = {static_cast<char*>(buffers[i].iov_base) + from, take};
    length -= take;
    from = 0;
  }
}

AlignedBuffer::AlignedBuffer(size_t size)
    : data_(static_cast<std::byte*>(std::aligned_alloc(
          kAlignment, (std::max<size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment))),
      size_(size) {}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  if (this != &other) {
    std::free(data_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  std::free(data_);
}

}  // namespace ostler::block
