// Commands of a CD drive: which there are, and those that do something or read blocks (SPC-3 §6, MMC-5 §6).
#include <algorithm>
#include <utility>

#include "devices/scsi/cd_unit.h"

namespace ostler::scsi {
namespace {

enum class Packet : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kInquiry = 0x12,
  kModeSense6 = 0x1a,  // not of ATAPI
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

uint32_t CdUnit::blocks() const {
  return medium_ == nullptr
             ? 0
             : static_cast<uint32_t>(std::min<uint64_t>(medium_->size() / kCdBlock, 0xffff'fffe));
}

CdUnit::Outcome CdUnit::good() const {
  return {};
}

CdUnit::Outcome CdUnit::fail(const Sense& sense) {
  sense_ = sense;
  return {.kind = Outcome::Kind::kSense, .sense = sense};
}

CdUnit::Outcome CdUnit::reply(size_t bytes, size_t allowed) {
  data_.resize(std::min(bytes, allowed));
  if (data_.empty()) return good();
  return {.kind = Outcome::Kind::kReply, .reply = std::move(data_)};
}

std::optional<Sense> CdUnit::take_attention(uint8_t opcode) {
  if (!attention_ || (ignores_attention(static_cast<Packet>(opcode)) &&
                      static_cast<Packet>(opcode) != Packet::kRequestSense))
    return std::nullopt;
  attention_ = false;
  return std::exchange(new_medium_, false) ? sense::kMediumChanged : sense::kReset;
}

CdUnit::Outcome CdUnit::execute(std::span<const uint8_t> command) {
  std::copy_n(command.begin(), std::min(command.size(), packet_.size()), packet_.begin());
  const auto packet = static_cast<Packet>(packet_[0]);
  if (!ignores_attention(packet))
    if (const auto attention = take_attention(packet_[0])) return fail(*attention);
  if (needs_medium(packet) && !has_medium())
    return fail(tray_open_ ? sense::kNoMediumTrayOpen : sense::kNoMediumTrayClosed);
  // Sense data is of the command before, for as long as no other ends.
  if (packet != Packet::kRequestSense) sense_ = {};
  switch (packet) {
    case Packet::kTestUnitReady:
    case Packet::kSetSpeed:
    case Packet::kSynchronizeCache:
      return good();
    case Packet::kRequestSense: {
      data_ = encode(std::exchange(sense_, {}));
      return reply(kFixedSenseBytes, byte(4));
    }
    case Packet::kInquiry:
      return inquiry();
    case Packet::kStartStopUnit:
      return start_stop_unit();
    case Packet::kPreventAllow:
      locked_ = (byte(4) & 1) != 0;
      return good();
    case Packet::kReadCapacity:
      data_.assign(8, std::byte{0});
      put(data_, 0, blocks() - 1, 4);
      put(data_, 4, kCdBlock, 4);
      return reply(8, 8);
    case Packet::kRead10:
      return read_blocks(be(2, 4), be(7, 2));
    case Packet::kRead12:
      return read_blocks(be(2, 4), be(6, 4));
    case Packet::kReadCd:
      return read_cd();
    case Packet::kSeek10:
      if (be(2, 4) >= blocks()) return fail(sense::kOutOfRange);
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
    case Packet::kModeSense6:
      if (bus_ == Bus::kAtapi) return fail(sense::kInvalidOpcode);
      return mode_sense(false);
    case Packet::kModeSense10:
      return mode_sense(true);
    case Packet::kMechanismStatus:
      return mechanism_status();
  }
  return fail(sense::kInvalidOpcode);
}

// MMC-5 §6.48.
CdUnit::Outcome CdUnit::start_stop_unit() {
  const bool start = (byte(4) & 1) != 0, load_eject = (byte(4) & 2) != 0;
  if ((byte(4) & 0xf0) != 0 || !load_eject) return good();  // power conditions; spinning
  if (start) {
    close_tray();
    return good();
  }
  if (locked_) return fail(sense::kRemovalPrevented);
  if (!tray_open_) event_ = MediaEvent::kRemoved;
  tray_open_ = true;
  return good();
}

CdUnit::Outcome CdUnit::read_blocks(uint32_t first, uint32_t count) {
  if (first > blocks() || count > blocks() - first) return fail(sense::kOutOfRange);
  if (count == 0) return good();
  return {.kind = Outcome::Kind::kRead, .first = first, .count = count};
}

// MMC-5 §6.20. Only what an image holds can be read: the user data of blocks.
CdUnit::Outcome CdUnit::read_cd() {
  const uint32_t count = be(6, 3);
  const unsigned type = byte(1) >> 2 & 7, fields = byte(9) & 0xfe;
  if (count == 0 || fields == 0) return good();
  if (fields != 0x10 || (byte(10) & 7) != 0) return fail(sense::kInvalidField);
  if (type != 0 && type != 2 && type != 4) return fail(sense::kIllegalTrackMode);
  return read_blocks(be(2, 4), count);
}

void CdUnit::reset() {
  attention_ = true;
  new_medium_ = locked_ = tray_open_ = false;
  event_ = MediaEvent::kNone;
  sense_ = {};
}

bool CdUnit::open_tray(bool force) {
  if (tray_open_) return true;
  if (locked_ && !force) {
    event_ = MediaEvent::kEjectRequest;
    return false;
  }
  tray_open_ = true;
  event_ = MediaEvent::kRemoved;
  return true;
}

void CdUnit::close_tray() {
  if (!tray_open_) return;
  tray_open_ = false;
  if (blocks() == 0) return;
  attention_ = new_medium_ = true;
  event_ = MediaEvent::kNewMedium;
}

void CdUnit::state(state::Archive& archive) {
  archive.field("tray open", tray_open_);
  archive.field("locked", locked_);
  archive.field("attention", attention_);
  archive.field("new medium", new_medium_);
  archive.field("event", event_);
  archive.check(static_cast<uint8_t>(event_) < kMediaEvents, "event");
  archive.field("sense key", sense_.key);
  archive.field("sense code", sense_.code);
  archive.field("sense qualifier", sense_.qualifier);
}

}  // namespace ostler::scsi
