#include "net/frame_reader.h"

#include <arpa/inet.h>

#include <cstring>

namespace ostler::net {

std::span<std::byte> FrameReader::space() {
  if (begin_ == end_) begin_ = end_ = 0;
  // The largest frame must fit behind what is there.
  if (begin_ > buffer_.size() / 2) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return std::span(buffer_).subspan(end_);
}

std::optional<std::span<const std::byte>> FrameReader::next() {
  while (!broken_ && end_ - begin_ >= kLengthBytes) {
    uint32_t length = 0;
    std::memcpy(&length, buffer_.data() + begin_, sizeof length);
    length = ntohl(length);
    if (length > kMaxFrame) {
      broken_ = true;
      break;
    }
    if (end_ - begin_ - kLengthBytes < length) break;
    if (length >= kMinFrame) return std::span(buffer_).subspan(begin_ + kLengthBytes, length);
    begin_ += kLengthBytes + length;
  }
  return std::nullopt;
}

void FrameReader::pop() {
  if (const auto frame = next()) begin_ += kLengthBytes + frame->size();
}

void FrameReader::reset() {
  begin_ = end_ = 0;
  broken_ = false;
}

}  // namespace ostler::net
