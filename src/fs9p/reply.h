// A reply of 9P2000.L while it is written. Its size is filled in at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "fs9p/protocol.h"

namespace ostler::fs9p {

class Reply {
 public:
  // `room`: the most bytes that the reply may have; whoever reads data into it asks.
  Reply(Type request, uint16_t tag, size_t room) : bytes_(kHeaderBytes), room_(room) {
    bytes_[4] = static_cast<std::byte>(static_cast<uint8_t>(request) + 1);
    store_le(bytes_.data() + 5, tag);
  }
  // Rlerror; `error` is an errno of Linux.
  static Reply failure(uint16_t tag, int error) {
    // Its number is that of a reply: one more than Tlerror, which does not exist.
    Reply reply(Type::kLerror, tag, kErrorBytes);
    reply << static_cast<uint32_t>(error);
    return reply;
  }

  template <class T>
  requires std::is_integral_v<T> Reply& operator<<(T value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    store_le(bytes_.data() + at, value);
    return *this;
  }
  Reply& operator<<(std::string_view text) {
    *this << static_cast<uint16_t>(text.size());
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Reply& operator<<(const Qid& qid) { return *this << qid.type << qid.version << qid.path; }
  Reply& operator<<(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }

  // Space of `size` bytes for data to be read into; cut() gives back what was not filled.
  std::span<std::byte> space(size_t size) {
    bytes_.resize(bytes_.size() + size);
    return std::span(bytes_).last(size);
  }
  void cut(size_t unused) { bytes_.resize(bytes_.size() - unused); }
  // Writes over a number at `offset` of the message.
  template <class T>
  void patch(size_t offset, T value) {
    store_le(bytes_.data() + offset, value);
  }
  size_t size() const { return bytes_.size(); }
  size_t room() const { return room_; }
  std::vector<std::byte> finish() && {
    store_le(bytes_.data(), static_cast<uint32_t>(bytes_.size()));
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  size_t room_;
};

}  // namespace ostler::fs9p
