#include "devices/virtio/net/filter.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "devices/virtio/net/big_endian.h"

namespace ostler::virtio::net {
namespace {

constexpr uint16_t kVlanType = 0x8100;
constexpr size_t kAddressBytes = 6;

}  // namespace

void Filter::reset(bool vlans) {
  *this = {};
  vlans_filtered_ = vlans;
}

bool Filter::Table::has(const config::MacAddress& address) const {
  return overflow || std::ranges::find(addresses, address) != addresses.end();
}

bool Filter::accepts(std::span<const std::byte> frame, const config::MacAddress& own) const {
  if (frame.size() < 14) return false;
  if (vlans_filtered_ && frame.size() >= 16 && load_be<uint16_t>(frame.data() + 12) == kVlanType &&
      !vlans_[load_be<uint16_t>(frame.data() + 14) & 0xfff])
    return false;
  if (modes_[kPromiscuous] != 0) return true;
  config::MacAddress to;
  std::memcpy(to.data(), frame.data(), to.size());
  if (to == config::MacAddress{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) return modes_[kNoBroadcast] == 0;
  if ((to[0] & 1) != 0) {
    if (modes_[kNoMulticast] != 0) return false;
    return modes_[kAllMulticast] != 0 || multicast_.has(to);
  }
  if (modes_[kNoUnicast] != 0) return false;
  return modes_[kAllUnicast] != 0 || to == own || unicast_.has(to);
}

bool Filter::set_addresses(std::span<const std::byte> tables) {
  Table parsed[2];
  for (Table& table : parsed) {
    if (tables.size() < 4) return false;
    const uint64_t count = load_le<uint32_t>(tables.data());
    tables = tables.subspan(4);
    if (count > tables.size() / kAddressBytes) return false;
    table.overflow = count > kMostAddresses;
    for (uint64_t i = 0; i < count && !table.overflow; ++i)
      std::memcpy(table.addresses.emplace_back().data(), tables.data() + i * kAddressBytes, kAddressBytes);
    tables = tables.subspan(count * kAddressBytes);
  }
  if (!tables.empty()) return false;
  unicast_ = std::move(parsed[0]);
  multicast_ = std::move(parsed[1]);
  return true;
}

bool Filter::set_vlan(unsigned id, bool on) {
  if (id >= vlans_.size()) return false;
  vlans_[id] = on;
  return true;
}

void Filter::Table::state(state::Archive& archive) {
  archive.field("overflow", overflow);
  uint8_t count = static_cast<uint8_t>(addresses.size());
  archive.field("count", count);
  archive.check(count <= kMostAddresses, "count");
  addresses.resize(archive.failed() ? 0 : count);
  for (auto& address : addresses) archive.field("address", address);
}

void Filter::state(state::Archive& archive) {
  archive.field("modes", modes_);
  unicast_.state(archive);
  multicast_.state(archive);
  archive.field("vlans_filtered", vlans_filtered_);
  std::array<uint8_t, 512> bytes{};
  for (unsigned id = 0; id < vlans_.size(); ++id)
    if (vlans_[id]) bytes[id / 8] = static_cast<uint8_t>(bytes[id / 8] | 1u << id % 8);
  archive.bytes("vlans", std::as_writable_bytes(std::span(bytes)));
  for (unsigned id = 0; id < vlans_.size(); ++id) vlans_[id] = (bytes[id / 8] >> id % 8 & 1) != 0;
}

}  // namespace ostler::virtio::net
