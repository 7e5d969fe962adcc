// The formats of virtio-blk (Virtio 1.2 §5.2) and the reading of one request.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "devices/virtio/chain.h"

namespace ostler::virtio::block {

inline constexpr uint64_t kSector = 512;

// §5.2.3
inline constexpr unsigned VIRTIO_BLK_F_SEG_MAX = 2;
inline constexpr unsigned VIRTIO_BLK_F_RO = 5;
inline constexpr unsigned VIRTIO_BLK_F_BLK_SIZE = 6;
inline constexpr unsigned VIRTIO_BLK_F_FLUSH = 9;
inline constexpr unsigned VIRTIO_BLK_F_TOPOLOGY = 10;
inline constexpr unsigned VIRTIO_BLK_F_CONFIG_WCE = 11;
inline constexpr unsigned VIRTIO_BLK_F_MQ = 12;
inline constexpr unsigned VIRTIO_BLK_F_DISCARD = 13;
inline constexpr unsigned VIRTIO_BLK_F_WRITE_ZEROES = 14;

// §5.2.6
enum class RequestType : uint32_t {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};
enum class Status : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

struct RequestHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);

struct RangeSegment {  // of discard and write-zeroes
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
static_assert(sizeof(RangeSegment) == 16);
inline constexpr uint32_t kRangeUnmap = 1;
inline constexpr uint32_t kMaxRangeSegments = 32;
inline constexpr uint32_t kMaxRangeSectors = 1u << 22;  // 2 GiB
inline constexpr uint32_t kIdBytes = 20;

// What of the disk a request must respect.
struct Limits {
  uint64_t bytes;
  bool read_only;
  bool discard;
  bool write_zeroes;
};

// One request from the ring until its chain goes back.
struct Request {
  Request(Chain from_ring, unsigned queue_index) : chain(std::move(from_ring)), queue(queue_index) {}

  // Reads header and ranges. False: the chain has no room for header and status, which breaks the device
  // (§5.2.6.1). Else `status` is kOk, or says why the disk must not be touched.
  bool parse(memory::Dma& dma, const Limits& limits);

  Chain chain;
  unsigned queue;
  RequestType type = RequestType::kIn;
  Status status = Status::kOk;
  uint64_t offset = 0;  // bytes, of kIn and kOut
  uint64_t data_bytes = 0;
  std::vector<RangeSegment> ranges;
  size_t next_range = 0;
  memory::Mapping mapping;

 private:
  Status check(memory::Dma& dma, const RequestHeader& header, const Limits& limits);
};

}  // namespace ostler::virtio::block
