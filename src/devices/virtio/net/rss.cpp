#include "devices/virtio/net/rss.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bytes.h"
#include "devices/virtio/net/big_endian.h"

namespace ostler::virtio::net {
namespace {

// §5.1.6.4.3.1; reports (§5.1.6.4.4) are the bit's number plus one.
enum Type : unsigned { kIpv4 = 0, kTcpv4 = 1, kUdpv4 = 2, kIpv6 = 3, kTcpv6 = 4, kUdpv6 = 5 };

uint32_t toeplitz(std::span<const uint8_t> key, std::span<const std::byte> input) {
  uint32_t result = 0;
  uint32_t window = uint32_t{key[0]} << 24 | uint32_t{key[1]} << 16 | uint32_t{key[2]} << 8 | key[3];
  for (size_t i = 0; i < input.size(); ++i) {
    const unsigned next = i + 4 < key.size() ? key[i + 4] : 0;
    for (unsigned bit = 8; bit-- != 0;) {
      if ((std::to_integer<unsigned>(input[i]) >> bit & 1) != 0) result ^= window;
      window = window << 1 | (next >> bit & 1);
    }
  }
  return result;
}

}  // namespace

bool Rss::configure(std::span<const std::byte> command, unsigned most, uint16_t& pairs) {
  if (command.size() < 8) return false;
  const auto types = load_le<uint32_t>(command.data());
  const size_t entries = size_t{load_le<uint16_t>(command.data() + 4)} + 1;
  const auto unclassified = load_le<uint16_t>(command.data() + 6);
  if ((types & ~kHashTypes) != 0 || !std::has_single_bit(entries) || entries > kMostEntries ||
      unclassified >= most || command.size() < 8 + 2 * entries + 3)
    return false;
  std::vector<uint16_t> table(entries);
  for (size_t i = 0; i < entries; ++i) {
    table[i] = load_le<uint16_t>(command.data() + 8 + 2 * i);
    if (table[i] >= most) return false;
  }
  const std::byte* const rest = command.data() + 8 + 2 * entries;
  const auto transmit = load_le<uint16_t>(rest);
  const auto key_bytes = std::to_integer<size_t>(rest[2]);
  if (transmit == 0 || transmit > most || key_bytes > kKeyBytes ||
      command.size() != 8 + 2 * entries + 3 + key_bytes)
    return false;
  pairs = transmit;
  types_ = types;
  unclassified_ = unclassified;
  table_ = std::move(table);
  key_ = {};
  std::memcpy(key_.data(), rest + 3, key_bytes);
  return true;
}

bool Rss::configure_hash(std::span<const std::byte> command) {
  if (command.size() < 13) return false;
  const auto types = load_le<uint32_t>(command.data());
  const auto key_bytes = std::to_integer<size_t>(command[12]);
  if ((types & ~kHashTypes) != 0 || key_bytes > kKeyBytes || command.size() != 13 + key_bytes) return false;
  types_ = types;
  key_ = {};
  std::memcpy(key_.data(), command.data() + 13, key_bytes);
  return true;
}

Rss::Hash Rss::hash(std::span<const std::byte> frame) const {
  size_t ip = 14;
  while (ip + 4 <= frame.size() && load_be<uint16_t>(frame.data() + ip - 2) == 0x8100 && ip < 22) ip += 4;
  if (ip > frame.size()) return {};
  const uint16_t ether_type = load_be<uint16_t>(frame.data() + ip - 2);
  std::array<std::byte, 36> input;
  size_t addresses = 0, transport = 0;
  unsigned protocol = 0;
  bool fragment = false;
  const auto at = [&](size_t offset) { return std::to_integer<unsigned>(frame[offset]); };
  const bool ipv6 = ether_type == 0x86dd;
  if (ether_type == 0x0800 && ip + 20 <= frame.size()) {
    addresses = 8;
    std::copy_n(frame.begin() + static_cast<ptrdiff_t>(ip + 12), addresses, input.begin());
    transport = ip + 4 * (at(ip) & 15);
    protocol = at(ip + 9);
    fragment = (load_be<uint16_t>(frame.data() + ip + 6) & 0x3fff) != 0;
  } else if (ipv6 && ip + 40 <= frame.size()) {
    addresses = 32;
    std::copy_n(frame.begin() + static_cast<ptrdiff_t>(ip + 8), addresses, input.begin());
    transport = ip + 40;
    protocol = at(ip + 6);
  } else {
    return {};
  }
  const unsigned base = ipv6 ? kIpv6 : kIpv4;
  unsigned type = base;
  if (!fragment && transport + 4 <= frame.size()) {
    if (protocol == 6) type = base + kTcpv4;
    if (protocol == 17) type = base + kUdpv4;
  }
  size_t bytes = addresses;
  if (type != base && (types_ >> type & 1) != 0) {
    std::copy_n(frame.begin() + static_cast<ptrdiff_t>(transport), 4,
                input.begin() + static_cast<ptrdiff_t>(bytes));
    bytes += 4;
  } else {
    type = base;
    if ((types_ >> type & 1) == 0) return {};
  }
  return {toeplitz(key_, std::span(input).first(bytes)), static_cast<uint16_t>(type + 1)};
}

unsigned Rss::queue(const Hash& hash) const {
  return hash.report == 0 ? unclassified_ : table_[hash.value & (table_.size() - 1)];
}

void Rss::state(state::Archive& archive, unsigned most) {
  archive.field("types", types_);
  archive.check((types_ & ~kHashTypes) == 0, "types");
  archive.field("unclassified", unclassified_);
  archive.check(unclassified_ < most, "unclassified");
  archive.field("table", table_, kMostEntries);
  archive.check(table_.empty() || std::has_single_bit(table_.size()), "table");
  for (const uint16_t entry : table_) archive.check(entry < most, "table");
  archive.field("key", key_);
}

}  // namespace ostler::virtio::net
