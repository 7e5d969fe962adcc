// What a driver left undone in a frame (Virtio 1.2 §5.1.6.2: a checksum, the cutting of a large TCP or UDP
// payload into packets), done here for back ends that cannot.
//
// The frame and its header are hostile: whatever does not fit is refused, and no more segments come than a
// frame of 64 KiB makes with the smallest sensible size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "net/frame.h"

namespace ostler::virtio::net {

// Fills in the checksum that the header asks for. False: it lies outside of the frame.
bool finish_checksum(std::span<std::byte> frame, const ostler::net::VnetHeader& header);

class Segmenter {
 public:
  static constexpr size_t kMostSegments = 2048;
  static constexpr size_t kMostHeaders = 512;  // bytes before the payload, of which each segment has a copy

  // `frame` stays as it is while this is used. The header's gso_type is TCPV4, TCPV6 or UDP_L4.
  Segmenter(std::span<const std::byte> frame, const ostler::net::VnetHeader& header);
  // 0: the frame does not have what its header tells.
  size_t count() const { return count_; }
  // Makes the i-th segment, complete with its checksums.
  void segment(size_t i, std::vector<std::byte>& out) const;

 private:
  bool parse(const ostler::net::VnetHeader& header);

  const std::span<const std::byte> frame_;
  bool tcp_ = false;
  bool ipv6_ = false;
  size_t ip_ = 0, transport_ = 0, payload_ = 0;  // offsets of the headers and the payload
  size_t size_ = 0;                              // payload bytes in a segment
  size_t count_ = 0;
};

}  // namespace ostler::virtio::net
