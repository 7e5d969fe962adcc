// What goes over a vhost-user socket: QEMU's "Vhost-user Protocol" (docs/interop/vhost-user), names as there.
// All numbers are in the host's byte order.
#pragma once

#include <cstdint>

namespace ostler::virtio::vhost_user {

// Front-end message types.
enum class Request : uint32_t {
  VHOST_USER_GET_FEATURES = 1,
  VHOST_USER_SET_FEATURES = 2,
  VHOST_USER_SET_OWNER = 3,
  VHOST_USER_SET_MEM_TABLE = 5,
  VHOST_USER_SET_VRING_NUM = 8,
  VHOST_USER_SET_VRING_ADDR = 9,
  VHOST_USER_SET_VRING_BASE = 10,
  VHOST_USER_GET_VRING_BASE = 11,
  VHOST_USER_SET_VRING_KICK = 12,
  VHOST_USER_SET_VRING_CALL = 13,
  VHOST_USER_GET_PROTOCOL_FEATURES = 15,
  VHOST_USER_SET_PROTOCOL_FEATURES = 16,
  VHOST_USER_GET_QUEUE_NUM = 17,
  VHOST_USER_SET_VRING_ENABLE = 18,
  VHOST_USER_SEND_RARP = 19,
  VHOST_USER_SET_BACKEND_REQ_FD = 21,
  VHOST_USER_GET_CONFIG = 24,
  VHOST_USER_SET_CONFIG = 25,
};

// Back-end message types. Its other ones are answered as unknown.
inline constexpr uint32_t VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2;

// A bit of GET_FEATURES that no virtio device uses.
inline constexpr unsigned VHOST_USER_F_PROTOCOL_FEATURES = 30;

inline constexpr unsigned VHOST_USER_PROTOCOL_F_MQ = 0;
inline constexpr unsigned VHOST_USER_PROTOCOL_F_RARP = 2;
inline constexpr unsigned VHOST_USER_PROTOCOL_F_REPLY_ACK = 3;
inline constexpr unsigned VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5;
inline constexpr unsigned VHOST_USER_PROTOCOL_F_CONFIG = 9;

struct Header {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // of the payload, bytes
};
static_assert(sizeof(Header) == 12);
inline constexpr uint32_t kVersionMask = 3, kVersion = 1, kReply = 1u << 2, kNeedReply = 1u << 3;

struct VringState {
  uint32_t index;
  uint32_t num;
};

struct VringAddress {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors, used, available;  // user addresses
  uint64_t log;
};
static_assert(sizeof(VringAddress) == 40);

struct MemoryRegion {
  uint64_t guest_address;
  uint64_t size;
  uint64_t user_address;
  uint64_t mmap_offset;
};
static_assert(sizeof(MemoryRegion) == 32);

// Of SET_MEM_TABLE: a back end need not take more.
inline constexpr unsigned kMostRegions = 8;

struct ConfigHeader {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
inline constexpr uint32_t kMostConfig = 256;  // bytes

}  // namespace ostler::virtio::vhost_user
