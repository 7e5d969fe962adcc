// Receive-side scaling (Virtio 1.2 §5.1.6.4.3, §5.1.6.5.6): a Toeplitz hash of a frame's flow, and the queue
// that a table of the driver gives for it. One thread at a time: the device's lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "state/archive.h"

namespace ostler::virtio::net {

class Rss {
 public:
  static constexpr uint8_t kKeyBytes = 40;
  static constexpr uint16_t kMostEntries = 128;
  // IPv4, TCPv4, UDPv4, IPv6, TCPv6, UDPv6, without extension headers.
  static constexpr uint32_t kHashTypes = 0x3f;

  // §5.1.6.4.4: what was hashed, as the driver is told it.
  struct Hash {
    uint32_t value = 0;
    uint16_t report = 0;  // 0: nothing of the frame
  };

  void reset() { *this = {}; }
  // The content of MQ_RSS_CONFIG, for `most` queue pairs, and of MQ_HASH_CONFIG. False: malformed; nothing
  // changed. `pairs`: the transmit queues that will be used.
  bool configure(std::span<const std::byte> command, unsigned most, uint16_t& pairs);
  bool configure_hash(std::span<const std::byte> command);

  bool steers() const { return !table_.empty(); }
  void stop_steering() { table_.clear(); }
  Hash hash(std::span<const std::byte> frame) const;
  unsigned queue(const Hash& hash) const;  // steers() only

  void state(state::Archive& archive, unsigned most);

 private:
  uint32_t types_ = 0;
  uint16_t unclassified_ = 0;
  std::vector<uint16_t> table_;  // a power of two long; empty: another rule chooses the queue
  std::array<uint8_t, kKeyBytes> key_{};
};

}  // namespace ostler::virtio::net
