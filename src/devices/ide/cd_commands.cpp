// Packet commands: which there are, and those that do something or read blocks (SPC-3 §6, MMC-5 §6).
#include <algorithm>

#include "devices/ide/cd_drive.h"

namespace ostler::ide {
namespace {

// Sense: key, additional code, qualifier (SPC-3 §4.5.6).
constexpr uint8_t kNotReady = 2, kIllegalRequest = 5, kUnitAttention = 6;
constexpr uint8_t kSenseBytes = 18;

enum class Packet : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kInquiry = 0x12,
  kStartStopUnit = 0x1b,
  kPreventAllow = 0x1e,
  kReadCapacity = 0x25,
  kRead10 = 0x28,
  kSeek10 = 0x2b,
  kSynchronizeCache = 0x35,
  kReadSubChannel = 0x42,
  kReadToc = 0x43,
  kGetConfiguration = 0x46,
  kGetEventStatus = 0x4a,
  kReadDiscInformation = 0x51,
  kModeSense10 = 0x5a,
  kRead12 = 0xa8,
  kSetSpeed = 0xbb,
  kMechanismStatus = 0xbd,
  kReadCd = 0xbe,
};

// These tell about the drive itself, and do so while a unit attention waits (MMC-5 §4.1.6.1).
bool ignores_attention(Packet packet) {
  return packet == Packet::kInquiry || packet == Packet::kRequestSense ||
         packet == Packet::kGetConfiguration || packet == Packet::kGetEventStatus;
}

bool needs_medium(Packet packet) {
  switch (packet) {
    case Packet::kTestUnitReady:
    case Packet::kReadCapacity:
    case Packet::kRead10:
    case Packet::kRead12:
    case Packet::kReadCd:
    case Packet::kSeek10:
    case Packet::kReadSubChannel:
    case Packet::kReadToc:
    case Packet::kReadDiscInformation:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool CdDrive::medium_ready(Sense& sense) const {
  if (has_medium()) return true;
  sense = {kNotReady, 0x3a, static_cast<uint8_t>(tray_open_ ? 2 : 1)};
  return false;
}

void CdDrive::dispatch() {
  const auto packet = static_cast<Packet>(packet_[0]);
  if (attention_ && !ignores_attention(packet)) {
    attention_ = false;
    const bool changed = new_medium_;
    new_medium_ = false;
    return check_condition({kUnitAttention, static_cast<uint8_t>(changed ? 0x28 : 0x29), 0});
  }
  if (Sense sense = {}; needs_medium(packet) && !medium_ready(sense)) return check_condition(sense);
  // Sense data is of the command before, for as long as no other ends.
  if (packet != Packet::kRequestSense) sense_ = {};
  switch (packet) {
    case Packet::kTestUnitReady:
    case Packet::kSetSpeed:
    case Packet::kSynchronizeCache:
      return good();
    case Packet::kRequestSense:
      return request_sense();
    case Packet::kInquiry:
      return inquiry();
    case Packet::kStartStopUnit:
      return start_stop_unit();
    case Packet::kPreventAllow:
      return prevent_allow();
    case Packet::kReadCapacity:
      return read_capacity();
    case Packet::kRead10:
      return read_blocks(be32(2), be16(7));
    case Packet::kRead12:
      return read_blocks(be32(2), be32(6));
    case Packet::kReadCd:
      return read_cd();
    case Packet::kSeek10:
      if (be32(2) >= blocks()) return check_condition({kIllegalRequest, 0x21, 0});
      return good();
    case Packet::kReadSubChannel:
      return read_sub_channel();
    case Packet::kReadToc:
      return read_toc();
    case Packet::kGetConfiguration:
      return get_configuration();
    case Packet::kGetEventStatus:
      return get_event_status();
    case Packet::kReadDiscInformation:
      return read_disc_information();
    case Packet::kModeSense10:
      return mode_sense();
    case Packet::kMechanismStatus:
      return mechanism_status();
  }
  check_condition({kIllegalRequest, 0x20, 0});  // invalid command operation code
}

void CdDrive::request_sense() {
  clear(kSenseBytes);
  put(0, 0x70);  // current errors, fixed format
  put(2, sense_.key);
  put(7, kSenseBytes - 8);
  put(12, sense_.code);
  put(13, sense_.qualifier);
  sense_ = {};
  reply(kSenseBytes, byte(4));
}

// MMC-5 §6.48.
void CdDrive::start_stop_unit() {
  const bool start = (byte(4) & 1) != 0, load_eject = (byte(4) & 2) != 0;
  if ((byte(4) & 0xf0) != 0 || !load_eject) return good();  // power conditions; spinning
  if (start) {
    close_tray();
    return good();
  }
  if (locked_) return check_condition({kIllegalRequest, 0x53, 2});  // medium removal prevented
  if (!tray_open_) event_ = MediaEvent::kRemoved;
  tray_open_ = true;
  good();
}

void CdDrive::prevent_allow() {
  locked_ = (byte(4) & 1) != 0;
  good();
}

void CdDrive::read_capacity() {
  clear(8);
  put32(0, blocks() - 1);
  put32(4, kCdSector);
  reply(8, 8);
}

void CdDrive::read_blocks(uint32_t first, uint32_t count) {
  if (first > blocks() || count > blocks() - first) return check_condition({kIllegalRequest, 0x21, 0});
  if (count == 0) return good();
  step_ = Step::kBlocks;
  if (by_dma_) return begin_dma_disk(true, uint64_t{first} * kCdSector, uint64_t{count} * kCdSector);
  next_ = first;
  left_ = count;
  next_blocks();
}

// MMC-5 §6.20. Only what an image holds can be read: the user data of blocks.
void CdDrive::read_cd() {
  const uint32_t count = uint32_t{byte(6)} << 16 | be16(7);
  const unsigned type = byte(1) >> 2 & 7, fields = byte(9) & 0xfe;
  if (count == 0 || fields == 0) return good();
  if (fields != 0x10 || (byte(10) & 7) != 0) return check_condition({kIllegalRequest, 0x24, 0});
  if (type != 0 && type != 2 && type != 4) return check_condition({kIllegalRequest, 0x64, 0});
  read_blocks(be32(2), count);
}

}  // namespace ostler::ide
