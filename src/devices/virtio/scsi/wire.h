// The formats of virtio-scsi (Virtio 1.2 §5.6). Little-endian, packed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace ostler::virtio::scsi {

// §5.6.2, §5.6.3
enum : unsigned { kControlQueue = 0, kEventQueue = 1, kFirstRequestQueue = 2 };
inline constexpr unsigned VIRTIO_SCSI_F_HOTPLUG = 1;
inline constexpr unsigned VIRTIO_SCSI_F_CHANGE = 2;

// §5.6.4
struct [[gnu::packed]] Config {
  uint32_t num_queues;
  uint32_t seg_max;
  uint32_t max_sectors;
  uint32_t cmd_per_lun;
  uint32_t event_info_size;
  uint32_t sense_size;
  uint32_t cdb_size;
  uint16_t max_channel;
  uint16_t max_target;
  uint32_t max_lun;
};
static_assert(sizeof(Config) == 36);
inline constexpr uint32_t kDefaultSenseBytes = 96, kDefaultCdbBytes = 32;
inline constexpr uint16_t kMaxTarget = 255, kMaxLun = 16383;

using LunField = std::array<uint8_t, 8>;

// What a request names (§5.6.6.1): a unit, or the unit that is there for REPORT LUNS.
struct Address {
  uint8_t target = 0;
  uint16_t lun = 0;
  bool well_known = false;

  static std::optional<Address> decode(const LunField& field) {
    if (field[0] == 0xc1 && field[1] == 0x01) return Address{.target = 0, .lun = 0, .well_known = true};
    // SAM-5 §4.7.7: peripheral or flat addressing, of one level.
    const unsigned first = field[2];
    if (field[0] != 1 || (first != 0 && first >> 6 != 1)) return std::nullopt;
    return Address{.target = field[1], .lun = static_cast<uint16_t>((first & 0x3f) << 8 | field[3])};
  }
  LunField encode() const {
    const uint8_t high = lun < 256 ? uint8_t{0} : static_cast<uint8_t>(0x40 | lun >> 8);
    return {1, target, high, static_cast<uint8_t>(lun), 0, 0, 0, 0};
  }
};

// §5.6.6.1. The command block follows, then data; in the answer sense data, then data.
struct [[gnu::packed]] RequestHeader {
  LunField lun;
  uint64_t id;
  uint8_t task_attr;
  uint8_t prio;
  uint8_t crn;
};
static_assert(sizeof(RequestHeader) == 19);
struct [[gnu::packed]] ResponseHeader {
  uint32_t sense_len;
  uint32_t residual;
  uint16_t status_qualifier;
  uint8_t status;
  uint8_t response;
};
static_assert(sizeof(ResponseHeader) == 12);

enum class Response : uint8_t {
  kOk = 0,  // of tasks: the function is complete
  kOverrun = 1,
  kAborted = 2,
  kBadTarget = 3,
  kReset = 4,
  kFailure = 9,
  kFunctionSucceeded = 10,
  kFunctionRejected = 11,
  kIncorrectLun = 12,
};

// §5.6.6.2
enum class ControlType : uint32_t { kTask = 0, kAsyncQuery = 1, kAsyncSubscribe = 2 };
enum class TaskFunction : uint32_t {
  kAbortTask = 0,
  kAbortTaskSet = 1,
  kClearAca = 2,
  kClearTaskSet = 3,
  kNexusReset = 4,
  kUnitReset = 5,
  kQueryTask = 6,
  kQueryTaskSet = 7,
};
struct [[gnu::packed]] TaskRequest {
  uint32_t type;
  uint32_t subtype;
  LunField lun;
  uint64_t id;
};
static_assert(sizeof(TaskRequest) == 24);
struct [[gnu::packed]] AsyncRequest {
  uint32_t type;
  LunField lun;
  uint32_t event_requested;
};
static_assert(sizeof(AsyncRequest) == 16);
struct [[gnu::packed]] AsyncResponse {
  uint32_t event_actual;
  uint8_t response;
};
inline constexpr uint32_t kAsyncMediaChange = 16;

// §5.6.6.3
enum class EventType : uint32_t { kNone = 0, kTransportReset = 1, kAsyncNotify = 2, kParameterChange = 3 };
inline constexpr uint32_t kEventsMissed = 0x8000'0000;
inline constexpr uint32_t kResetRescan = 1, kResetRemoved = 2;
struct [[gnu::packed]] Event {
  uint32_t event;
  LunField lun;
  uint32_t reason;
};
static_assert(sizeof(Event) == 16);

}  // namespace ostler::virtio::scsi
