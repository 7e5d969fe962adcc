// Pieces of memory that a request reads into or writes from. A Buffers is a view: the iovecs and the memory
// stay the caller's until the request is done.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace ostler::block {

using Buffers = std::span<const iovec>;

uint64_t total_bytes(Buffers buffers);
// Fills the bytes from `from` on with zeros.
void fill_zeroes(Buffers buffers, uint64_t from = 0);
bool all_zeroes(Buffers buffers);
bool all_zeroes(const void* data, size_t size);
void copy_to(Buffers buffers, const void* from);
void copy_from(Buffers buffers, void* to);

// The part [from, from + length) of some Buffers, as Buffers again. Up to four pieces need no allocation.
class Slice {
 public:
  Slice(Buffers buffers, uint64_t from, uint64_t length);
  Slice(const Slice&) = delete;
  Slice& operator=(const Slice&) = delete;
  operator Buffers() const { return {data(), count_}; }

 private:
  const iovec* data() const { return many_ ? many_.get() : few_; }
  size_t count_ = 0;
  iovec few_[4];
  std::unique_ptr<iovec[]> many_;
};

// Memory aligned for O_DIRECT (4096), not initialised. Null when there is none: the caller reports -ENOMEM.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t size);
  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  ~AlignedBuffer();
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  std::span<std::byte> bytes() const { return {data_, size_}; }
  iovec as_iovec() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ostler::block
