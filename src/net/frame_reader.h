// Frames out of a byte stream in which each follows its length: 4 bytes, big-endian, as QEMU's -netdev socket
// and stream send them. The peer is hostile: memory is taken once, and a length beyond any frame ends it.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "net/frame.h"

namespace ostler::net {

inline constexpr size_t kLengthBytes = 4;

class FrameReader {
 public:
  FrameReader() : buffer_(2 * (kLengthBytes + kMaxFrame)) {}

  // Where the next bytes of the stream go: never empty once next() gave none. Then tell how many came.
  std::span<std::byte> space();
  void filled(size_t bytes) { end_ += bytes; }

  // The first whole frame, until pop(); none: more bytes are needed, or the stream is broken. What is too
  // short for a frame is skipped.
  std::optional<std::span<const std::byte>> next();
  void pop();
  // The peer announced a frame of more than kMaxFrame bytes.
  bool broken() const { return broken_; }

  void reset();

 private:
  std::vector<std::byte> buffer_;
  size_t begin_ = 0, end_ = 0;  // of the bytes that were not taken yet
  bool broken_ = false;
};

}  // namespace ostler::net
