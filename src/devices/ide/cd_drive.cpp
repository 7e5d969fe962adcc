// The ATA side: commands of the task file, and the way of packets and their data.
#include "devices/ide/cd_drive.h"

#include <algorithm>

#include "devices/ide/identify.h"

namespace ostler::ide {
namespace {

constexpr uint8_t kSignatureMid = 0x14, kSignatureHigh = 0xeb;
constexpr uint32_t kBufferBlocks = Drive::kBufferBytes / kCdSector;

}  // namespace

CdDrive::CdDrive(std::shared_ptr<block::Backend> medium, const Options& options)
    : medium_(std::move(medium)), options_(options) {}

uint32_t CdDrive::blocks() const {
  return medium_ == nullptr
             ? 0
             : static_cast<uint32_t>(std::min<uint64_t>(medium_->size() / kCdSector, 0xffff'fffe));
}

void CdDrive::execute(uint8_t code) {
  switch (static_cast<Command>(code)) {
    case Command::kPacket:
      by_dma_ = (task_.features.now & 1) != 0;
      limit_ = task_.mid.now | size_t{task_.high.now} << 8;
      // Odd limits are for the last block only (§5.8.6).
      if (limit_ > 0xfffe || limit_ == 0) limit_ = 0xfffe;
      if (limit_ > 1) limit_ &= ~size_t{1};
      step_ = Step::kPacket;
      task_.count.now = reason::kCommand;
      return begin_data_out(kPacket, false);
    case Command::kIdentifyPacket:
      return identify();
    case Command::kDeviceReset:
      return reset(false);
    case Command::kIdentify:
    case Command::kReadSectors:
      // The signature in the registers tells the guest what it has before it (§6.16.5).
      set_signature();
      return abort();
    case Command::kSetFeatures:
      if (task_.features.now == 0x03) {
        const unsigned mode = task_.count.now, kind = mode >> 3, number = mode & 7;
        if ((kind == 4 && number <= 2) || (kind == 8 && number <= 5))
          dma_mode_ = static_cast<uint8_t>(mode);
        else if (kind > 1 || number > 4)
          return abort();
        return finish();
      }
      return abort();
    case Command::kCheckPowerMode:
      task_.count.now = 0xff;
      return finish();
    case Command::kStandbyImmediate:
    case Command::kIdleImmediate:
    case Command::kSleep:
      return finish();
    case Command::kFlush:
      return finish();
    default:
      return abort();
  }
}

// ATA/ATAPI-7 §6.17.
void CdDrive::identify() {
  IdentifyData data(buffer());
  data.word(0, 0x85c0);  // packets of 12 bytes, of a CD drive, removable, within 50 us
  data.text(10, 10, options_.serial);
  data.text(23, 4, options_.version);
  data.text(27, 20, options_.model);
  data.word(49, 0x0f00);
  data.word(51, 0x0200);
  data.word(53, 0x0006);
  const bool ultra = (dma_mode_ & 0x40) != 0;
  data.word(63, 0x0007 | (ultra ? 0u : 0x0100u << (dma_mode_ & 7)));
  data.word(64, 0x0003);
  for (unsigned word = 65; word <= 68; ++word) data.word(word, 120);
  data.word(80, 0x00f0);
  data.word(82, 0x4210);  // NOP, DEVICE RESET, PACKET
  data.word(83, 0x4000);
  data.word(84, 0x4000);
  data.word(85, 0x4210);
  data.word(87, 0x4000);
  data.word(88, 0x003f | (ultra ? 0x0100u << (dma_mode_ & 7) : 0u));
  data.word(93, 0x6001);
  data.seal();
  step_ = Step::kNone;
  filled_ = kSector;
  begin_data_in(0, kSector, true);
}

void CdDrive::data_written() {
  if (step_ != Step::kPacket) return abort();
  for (size_t i = 0; i < kPacket; ++i) packet_[i] = std::to_integer<uint8_t>(buffer()[i]);
  step_ = Step::kNone;
  filled_ = 0;
  left_ = 0;
  dispatch();
}

// The next block of data for the guest, from `from` in the buffer on.
void CdDrive::offer(size_t from) {
  const size_t bytes = std::min(limit_, filled_ - from);
  task_.count.now = reason::kToGuest;
  task_.mid.now = static_cast<uint8_t>(bytes);
  task_.high.now = static_cast<uint8_t>(bytes >> 8);
  begin_data_in(from, from + bytes, true);
}

void CdDrive::data_read() {
  if (step_ == Step::kNone) {  // of IDENTIFY PACKET DEVICE: its interrupt has been
    const bool before = interrupt();
    finish();
    if (!before) acknowledge();
    return;
  }
  if (data_end() < filled_) return offer(data_end());
  if (step_ == Step::kBlocks && left_ != 0) return next_blocks();
  good();
}

void CdDrive::next_blocks() {
  const uint32_t now = std::min(left_, kBufferBlocks);
  if (next_ >= blocks() || now > blocks() - next_) return check_condition({5, 0x21, 0});
  begin_host(
      buffer_request(HostRequest::Kind::kRead, uint64_t{next_} * kCdSector, uint64_t{now} * kCdSector));
}

void CdDrive::host_done(int error) {
  if (error != 0 || step_ != Step::kBlocks) return check_condition({3, 0x11, 0});
  const uint32_t now = std::min(left_, kBufferBlocks);
  next_ += now;
  left_ -= now;
  filled_ = size_t{now} * kCdSector;
  offer(0);
}

void CdDrive::dma_done() {
  good();
}

void CdDrive::dma_failed(int) {
  check_condition({3, 0x11, 0});  // medium error, unrecovered read error
}

void CdDrive::reply(size_t bytes, size_t allowed) {
  filled_ = std::min(bytes, allowed);
  if (filled_ == 0) return good();
  step_ = Step::kReply;
  if (by_dma_) return begin_dma_buffer(true, filled_);
  offer(0);
}

void CdDrive::end_command() {
  step_ = Step::kNone;
  left_ = 0;
  task_.count.now = reason::kToGuest | reason::kCommand;
}

void CdDrive::good() {
  end_command();
  finish();
}

void CdDrive::check_condition(Sense sense) {
  sense_ = sense;
  end_command();
  finish(status::kError, static_cast<uint8_t>(sense.key << 4 | (sense.key == 5 ? error::kAborted : 0)));
}

void CdDrive::set_signature() {
  idle_status_ = 0;  // not ready for commands other than packets (§9.12)
  task_.count.now = task_.low.now = 1;
  task_.mid.now = kSignatureMid;
  task_.high.now = kSignatureHigh;
}

void CdDrive::reset_drive(bool hardware) {
  step_ = Step::kNone;
  filled_ = 0;
  left_ = 0;
  if (!hardware) return;
  attention_ = true;
  new_medium_ = false;
  locked_ = false;
  tray_open_ = false;
  event_ = MediaEvent::kNone;
  sense_ = {};
  dma_mode_ = 0x22;
}

bool CdDrive::open_tray(bool force) {
  if (tray_open_) return true;
  if (locked_ && !force) {
    event_ = MediaEvent::kEjectRequest;
    return false;
  }
  if (step_ == Step::kBlocks) fail_data();
  tray_open_ = true;
  event_ = MediaEvent::kRemoved;
  return true;
}

void CdDrive::close_tray() {
  if (!tray_open_) return;
  tray_open_ = false;
  if (blocks() == 0) return;
  attention_ = new_medium_ = true;
  event_ = MediaEvent::kNewMedium;
}

void CdDrive::drive_state(state::Archive& archive) {
  archive.section("cd drive", 1);
  uint64_t size = medium_ == nullptr ? 0 : medium_->size();
  archive.field("size", size);
  archive.check(size == (medium_ == nullptr ? 0 : medium_->size()), "size of the medium");
  archive.field("tray open", tray_open_);
  archive.field("locked", locked_);
  archive.field("attention", attention_);
  archive.field("new medium", new_medium_);
  archive.field("event", event_);
  archive.check(static_cast<uint8_t>(event_) < kMediaEvents, "event");
  archive.field("sense key", sense_.key);
  archive.field("sense code", sense_.code);
  archive.field("sense qualifier", sense_.qualifier);
  archive.field("dma mode", dma_mode_);
  archive.field("step", step_);
  archive.check(static_cast<uint8_t>(step_) < kSteps, "step");
  archive.field("packet", packet_);
  archive.field("by dma", by_dma_);
  uint64_t limit = limit_, filled = filled_;
  archive.field("limit", limit);
  archive.field("filled", filled);
  archive.field("next", next_);
  archive.field("left", left_);
  archive.check(limit <= 0xfffe && filled <= kBufferBytes && (step_ <= Step::kPacket || limit != 0), "data");
  archive.check(next_ <= blocks() && left_ <= blocks() - std::min(next_, blocks()), "blocks");
  archive.check(!in_dma() || dma_to_guest(), "direction");
  if (!archive.loading()) return;
  limit_ = archive.failed() ? 0 : limit;
  filled_ = archive.failed() ? 0 : filled;
}

}  // namespace ostler::ide
