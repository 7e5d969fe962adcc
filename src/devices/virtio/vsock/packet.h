// What is on the rings of virtio-vsock (Virtio 1.2 §5.10). Names as in the specification.
#pragma once

#include <cstdint>

namespace ostler::virtio::vsock {

inline constexpr uint64_t kHostCid = 2;

inline constexpr uint16_t VIRTIO_VSOCK_TYPE_STREAM = 1;

enum Op : uint16_t {
  VIRTIO_VSOCK_OP_REQUEST = 1,
  VIRTIO_VSOCK_OP_RESPONSE = 2,
  VIRTIO_VSOCK_OP_RST = 3,
  VIRTIO_VSOCK_OP_SHUTDOWN = 4,
  VIRTIO_VSOCK_OP_RW = 5,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6,
  VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7,
};

// Flags of SHUTDOWN: the sender will receive, send no more.
inline constexpr uint32_t VIRTIO_VSOCK_SHUTDOWN_RCV = 1;
inline constexpr uint32_t VIRTIO_VSOCK_SHUTDOWN_SEND = 2;
inline constexpr uint32_t kShutdownBoth = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;

inline constexpr uint32_t VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0;

// §5.10.6. Little-endian, and unaligned in its buffer.
struct [[gnu::packed]] Header {
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t len;  // bytes of data behind the header
  uint16_t type;
  uint16_t op;
  uint32_t flags;
  uint32_t buf_alloc;  // the sender's buffer, bytes
  uint32_t fwd_cnt;    // bytes that have left it, modulo 2^32
};
static_assert(sizeof(Header) == 44);

}  // namespace ostler::virtio::vsock
