// TCP and UDP packets for tests of offloads.
#pragma once

#include <cstdint>
#include <string>

#include "devices/virtio/net/big_endian.h"
#include "net/frame.h"

namespace ostler::virtio::net::test {

struct Packet {
  std::string bytes;
  size_t ip = 14, transport = 34, payload = 54;
};

inline void put16(std::string& bytes, size_t at, unsigned value) {
  bytes[at] = static_cast<char>(value >> 8);
  bytes[at + 1] = static_cast<char>(value);
}
inline void put32(std::string& bytes, size_t at, uint32_t value) {
  put16(bytes, at, value >> 16);
  put16(bytes, at + 2, value & 0xffff);
}
inline unsigned get16(const std::string& bytes, size_t at) {
  return load_be<uint16_t>(reinterpret_cast<const std::byte*>(bytes.data() + at));
}
inline uint32_t get32(const std::string& bytes, size_t at) {
  return load_be<uint32_t>(reinterpret_cast<const std::byte*>(bytes.data() + at));
}

inline unsigned ones_sum(const std::string& bytes, size_t from, size_t to, unsigned long start = 0) {
  unsigned long sum = start;
  for (size_t i = from; i < to; ++i) {
    const unsigned long byte = static_cast<uint8_t>(bytes[i]);
    sum += (i - from) % 2 == 0 ? byte << 8 : byte;
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<unsigned>(sum);
}

// A packet of `data` bytes; the checksum field holds the pseudo header's sum, as drivers leave it.
inline Packet packet(bool tcp, bool ipv6, size_t data, bool vlan = false) {
  Packet p;
  p.ip = vlan ? 18 : 14;
  p.transport = p.ip + (ipv6 ? 40 : 20);
  p.payload = p.transport + (tcp ? 20 : 8);
  std::string& b = p.bytes;
  b.assign(p.payload + data, '\0');
  for (size_t i = 0; i < data; ++i) b[p.payload + i] = static_cast<char>(i * 7 + i / 256);
  b.replace(0, 12, "\x02guest\x02hosts");
  if (vlan) put32(b, 12, 0x81000005);
  put16(b, p.ip - 2, ipv6 ? 0x86dd : 0x0800);
  const auto length = static_cast<unsigned>(b.size() - p.transport);
  const unsigned protocol = tcp ? 6 : 17;
  size_t addresses = p.ip + 12, end = p.ip + 20;
  if (ipv6) {
    b[p.ip] = 0x60;
    put16(b, p.ip + 4, length & 0xffff);
    b[p.ip + 6] = static_cast<char>(protocol);
    addresses = p.ip + 8;
    end = p.ip + 40;
  } else {
    b[p.ip] = 0x45;
    put16(b, p.ip + 2, (length + 20) & 0xffff);
    put16(b, p.ip + 4, 0x1234);
    b[p.ip + 8] = 64;
    b[p.ip + 9] = static_cast<char>(protocol);
  }
  for (size_t i = addresses; i < end; ++i) b[i] = static_cast<char>(i * 3);
  put16(b, p.transport, 1234);
  put16(b, p.transport + 2, 80);
  if (tcp) {
    put32(b, p.transport + 4, 0xfffffff0);
    b[p.transport + 12] = 0x50;
    b[p.transport + 13] = static_cast<char>(0x80 | 0x10 | 0x08 | 0x01);  // CWR ACK PSH FIN
  } else {
    put16(b, p.transport + 4, length & 0xffff);
  }
  put16(b, p.transport + (tcp ? 16 : 6), ones_sum(b, addresses, end, length + protocol));
  return p;
}

inline ostler::net::VnetHeader unfinished(const Packet& p, bool tcp) {
  return {.flags = ostler::net::VIRTIO_NET_HDR_F_NEEDS_CSUM,
          .csum_start = static_cast<uint16_t>(p.transport),
          .csum_offset = static_cast<uint16_t>(tcp ? 16 : 6)};
}

// What a receiver checks.
inline bool checksums_good(const std::string& b, const Packet& like, bool tcp, bool ipv6) {
  const auto length = static_cast<unsigned>(b.size() - like.transport);
  const size_t addresses = like.ip + (ipv6 ? 8 : 12), end = like.ip + (ipv6 ? 40 : 20);
  const unsigned pseudo = ones_sum(b, addresses, end, length + (tcp ? 6u : 17u));
  if (ones_sum(b, like.transport, b.size(), pseudo) != 0xffff) return false;
  return ipv6 || ones_sum(b, like.ip, like.ip + 20) == 0xffff;
}

}  // namespace ostler::virtio::net::test
