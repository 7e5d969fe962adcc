// SMART (ACS-2 §7.48 to §7.53, attributes and logs: Annex of ATA8-ACS). A disk image does not wear out: the
// attributes say that all is well.
#include <algorithm>

#include "base/bytes.h"
#include "devices/ide/ata_disk.h"

namespace ostler::ide {
namespace {

enum : uint8_t {
  kReadData = 0xd0,
  kReadThresholds = 0xd1,
  kAutosave = 0xd2,
  kExecuteOffline = 0xd4,
  kReadLog = 0xd5,
  kEnable = 0xd8,
  kDisable = 0xd9,
  kReturnStatus = 0xda,
};
constexpr uint8_t kKeyMid = 0x4f, kKeyHigh = 0xc2;

struct Attribute {
  uint8_t id;
  uint8_t flags;  // bit 0: pre-failure
  uint8_t raw;
  uint8_t threshold;
};
constexpr Attribute kAttributes[] = {
    {1, 0x03, 0, 16},    // read error rate
    {5, 0x03, 0, 5},     // reallocated sectors
    {9, 0x02, 0, 0},     // hours of power
    {12, 0x02, 0, 0},    // power cycles
    {194, 0x02, 30, 0},  // degrees Celsius
    {197, 0x02, 0, 0},   // sectors that wait for reallocation
};

// The last byte makes the sum of the sector 0.
void seal(std::span<std::byte> sector) {
  unsigned sum = 0;
  for (size_t i = 0; i < 511; ++i) sum += std::to_integer<unsigned>(sector[i]);
  sector[511] = static_cast<std::byte>(0x100 - (sum & 0xff));
}

}  // namespace

void AtaDisk::smart() {
  if (task_.mid.now != kKeyMid || task_.high.now != kKeyHigh) return abort();
  const uint8_t what = task_.features.now;
  if (!smart_ && what != kEnable) return abort();
  switch (what) {
    case kReadData:
    case kReadThresholds:
      return smart_data();
    case kReadLog:
      return smart_log();
    case kAutosave:
      return task_.count.now == 0 || task_.count.now == 0xf1 ? finish() : abort();
    case kExecuteOffline:
      // Collecting (0), short (1) and extended (2) tests, at once or in the background; stopping (127).
      return (task_.low.now & 0x7f) <= 2 || task_.low.now == 127 ? finish() : abort();
    case kEnable:
      smart_ = true;
      return finish();
    case kDisable:
      smart_ = false;
      return finish();
    case kReturnStatus:  // the key as it came: no threshold is exceeded
      return finish();
    default:
      return abort();
  }
}

void AtaDisk::smart_data() {
  const std::span<std::byte> sector = std::span(buffer()).first(kSector);
  std::ranges::fill(sector, std::byte{0});
  const bool thresholds = task_.features.now == kReadThresholds;
  const auto put = [&](size_t at, unsigned value) { sector[at] = static_cast<std::byte>(value); };
  put(0, 1);  // revision
  for (size_t i = 0; i < std::size(kAttributes); ++i) {
    const Attribute& each = kAttributes[i];
    const size_t at = 2 + 12 * i;
    put(at, each.id);
    if (thresholds) {
      put(at + 1, each.threshold);
      continue;
    }
    put(at + 1, each.flags);
    put(at + 3, 100);  // value now and worst
    put(at + 4, 100);
    put(at + 5, each.raw);
  }
  if (!thresholds) {
    put(362, 0x02);  // the offline collection is done
    put(364, 120);   // seconds that it takes
    put(367, 0x19);  // collecting, tests of the drive
    put(368, 0x03);  // attributes are kept over power cycles
    put(370, 0x01);  // there are logs
    put(372, 2);     // minutes of a short test, an extended one
    put(373, 10);
  }
  seal(sector);
  offer_sector();
}

void AtaDisk::smart_log() {
  const std::span<std::byte> sector = std::span(buffer()).first(kSector);
  std::ranges::fill(sector, std::byte{0});
  if (task_.count.now != 1) return abort();
  switch (task_.low.now) {
    case 0:  // the directory: sectors of the logs 1 and 6
      sector[0] = sector[2] = sector[12] = std::byte{1};
      return offer_sector();
    case 1:  // errors: none
    case 6:  // tests: none
      sector[0] = std::byte{1};
      seal(sector);
      return offer_sector();
    default:
      return abort();
  }
}

}  // namespace ostler::ide
