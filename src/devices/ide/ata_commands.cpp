// Which command does what (ACS-2 §7; older ones: ATA/ATAPI-7 volume 1).
#include <algorithm>
#include <bit>

#include "devices/ide/ata_disk.h"

namespace ostler::ide {
namespace {

constexpr uint8_t kMostMultiple = 16;
constexpr uint8_t kPowerActive = 0xff, kPowerStandby = 0x00;
constexpr uint32_t kMostTrimSectors = 8;  // of ranges, in one command

}  // namespace

void AtaDisk::execute(uint8_t code) {
  switch (static_cast<Command>(code)) {
    case Command::kReadSectors:
    case Command::kReadSectorsOld:
      return begin(Action::kRead, Way::kPio, false);
    case Command::kReadSectorsExt:
      return begin(Action::kRead, Way::kPio, true);
    case Command::kReadMultiple:
      return begin(Action::kRead, Way::kMultiple, false);
    case Command::kReadMultipleExt:
      return begin(Action::kRead, Way::kMultiple, true);
    case Command::kReadDma:
    case Command::kReadDmaOld:
      return begin(Action::kRead, Way::kDma, false);
    case Command::kReadDmaExt:
      return begin(Action::kRead, Way::kDma, true);
    case Command::kWriteSectors:
    case Command::kWriteSectorsOld:
      return begin(Action::kWrite, Way::kPio, false);
    case Command::kWriteSectorsExt:
      return begin(Action::kWrite, Way::kPio, true);
    case Command::kWriteMultiple:
      return begin(Action::kWrite, Way::kMultiple, false);
    case Command::kWriteMultipleExt:
      return begin(Action::kWrite, Way::kMultiple, true);
    case Command::kWriteMultipleFuaExt:
      return begin(Action::kWrite, Way::kMultiple, true, true);
    case Command::kWriteDma:
    case Command::kWriteDmaOld:
      return begin(Action::kWrite, Way::kDma, false);
    case Command::kWriteDmaExt:
      return begin(Action::kWrite, Way::kDma, true);
    case Command::kWriteDmaFuaExt:
      return begin(Action::kWrite, Way::kDma, true, true);
    case Command::kVerify:
    case Command::kVerifyOld:
      return begin(Action::kVerify, Way::kPio, false);
    case Command::kVerifyExt:
      return begin(Action::kVerify, Way::kPio, true);
    case Command::kFlush:
    case Command::kFlushExt:
      extended_ = true;
      lba_ = 0;
      left_ = 0;
      block_ = 1;
      action_ = Action::kFlush;
      return begin_host({});
    case Command::kDataSetManagement:
      return data_set_management();
    case Command::kIdentify:
      return identify();
    case Command::kSmart:
      return smart();
    case Command::kSetFeatures:
      return set_features();
    case Command::kSetMultiple:
      return set_multiple();
    case Command::kInitializeParameters:
      return initialize_parameters();
    case Command::kReadNativeMax:
      return native_max(false);
    case Command::kReadNativeMaxExt:
      return native_max(true);
    case Command::kReadBuffer:
      std::copy(scratch_.begin(), scratch_.end(), buffer().begin());
      return offer_sector();
    case Command::kWriteBuffer:
      return small(Action::kWriteBuffer);
    case Command::kStandbyImmediate:
    case Command::kStandby:
    case Command::kSleep:
      standby_ = true;
      return finish();
    case Command::kIdleImmediate:
    case Command::kIdle:
      standby_ = false;
      return finish();
    case Command::kCheckPowerMode:
      task_.count.now = standby_ ? kPowerStandby : kPowerActive;
      return finish();
    case Command::kIdentifyPacket:
    case Command::kPacket:
    case Command::kDeviceReset:
    case Command::kNop:
    case Command::kDiagnostic:
      return abort();
  }
  // Positioning, which has nothing to do here: RECALIBRATE and SEEK (ATA-3).
  if ((code & 0xf0) == 0x10 || (code & 0xf0) == 0x70) return finish();
  abort();
}

void AtaDisk::small(Action action) {
  action_ = action;
  left_ = 0;
  block_ = 1;
  lba_ = 0;
  begin_data_out(kSector, false);
}

// The sector in the buffer is the command's answer.
void AtaDisk::offer_sector() {
  action_ = Action::kReadBuffer;
  left_ = 0;
  block_ = 1;
  lba_ = 0;
  begin_data_in(0, kSector, true);
}

void AtaDisk::native_max(bool extended) {
  extended_ = extended;
  const uint64_t last = sectors() - 1;
  task_.device |= device::kLba;
  set_lba(extended ? last : std::min<uint64_t>(last, 0x0fff'ffff));
  finish();
}

// ATA/ATAPI-5 §8.16.
void AtaDisk::initialize_parameters() {
  const uint8_t per_track = task_.count.now;
  if (per_track == 0 || per_track > 63) return abort();
  sectors_per_track_ = per_track;
  heads_ = static_cast<uint8_t>((task_.device & 15) + 1);
  cylinders_ = static_cast<uint16_t>(std::min<uint64_t>(sectors() / (uint64_t{heads_} * per_track), 65535));
  finish();
}

void AtaDisk::set_multiple() {
  const uint8_t count = task_.count.now;
  if (count > kMostMultiple || (count != 0 && !std::has_single_bit(count))) return abort();
  multiple_ = count;
  finish();
}

void AtaDisk::set_features() {
  switch (task_.features.now) {
    case 0x02:
      write_cache_ = true;
      return finish();
    case 0x82:
      // What is in the cache must be stable when it is off (§7.47.6).
      write_cache_ = false;
      lba_ = left_ = 0;
      block_ = 1;
      extended_ = true;
      action_ = Action::kFlush;
      return begin_host({});
    case 0xaa:
    case 0x55:
      look_ahead_ = task_.features.now == 0xaa;
      return finish();
    case 0x66:  // a reset of software keeps the settings anyway
      return finish();
    case 0x03:
      return set_transfer_mode(task_.count.now);
    default:
      return abort();
  }
}

// Table 90: kind in bits 7:3, number in bits 2:0.
void AtaDisk::set_transfer_mode(uint8_t mode) {
  const unsigned kind = mode >> 3, number = mode & 7;
  const bool pio = kind == 0 || (kind == 1 && number <= 4);
  const bool multiword = kind == 4 && number <= 2, ultra = kind == 8 && number <= 5;
  if (!pio && !multiword && !ultra) return abort();
  if (!pio) dma_mode_ = mode;
  finish();
}

void AtaDisk::data_set_management() {
  const uint32_t count = task_.count.now | uint32_t{task_.count.before} << 8;
  if (!options_.discard || task_.features.now != 1 || count == 0 || count > kMostTrimSectors) return abort();
  action_ = Action::kTrim;
  extended_ = true;
  lba_ = 0;
  left_ = count * kSector / 8;
  block_ = 0;
  begin_dma_buffer(false, count * size_t{kSector});
}

}  // namespace ostler::ide
