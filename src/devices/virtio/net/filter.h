// Which frames a card takes from its wire, as its driver tells it (Virtio 1.2 §5.1.6.5.1 to .3): modes, a
// table of addresses, a set of VLANs. One thread at a time: the device's lock.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "config/property.h"
#include "state/archive.h"

namespace ostler::virtio::net {

class Filter {
 public:
  // More addresses than these are taken to mean all.
  static constexpr size_t kMostAddresses = 64;
  enum Mode : uint8_t { kPromiscuous, kAllMulticast, kAllUnicast, kNoMulticast, kNoUnicast, kNoBroadcast };
  static constexpr uint8_t kModes = 6;

  // A new card takes everything, but VLANs when the driver is to name them.
  void reset(bool vlans);
  bool accepts(std::span<const std::byte> frame, const config::MacAddress& own) const;

  void set_mode(Mode mode, bool on) { modes_[mode] = on ? 1 : 0; }
  // The content of the command: twice a count and that many addresses. False: it is malformed; nothing
  // changed.
  bool set_addresses(std::span<const std::byte> tables);
  bool set_vlan(unsigned id, bool on);  // false: there is no such VLAN

  void state(state::Archive& archive);

 private:
  struct Table {
    bool overflow = false;
    std::vector<config::MacAddress> addresses;
    bool has(const config::MacAddress& address) const;
    void state(state::Archive& archive);
  };
  uint8_t modes_[kModes] = {1};
  Table unicast_, multicast_;
  bool vlans_filtered_ = false;
  std::bitset<4096> vlans_;
};

}  // namespace ostler::virtio::net
