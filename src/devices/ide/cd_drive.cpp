// The ATA side: commands of the task file, and the way of packets and their data.
#include "devices/ide/cd_drive.h"

#include <algorithm>

#include "devices/ide/identify.h"

namespace ostler::ide {
namespace {

constexpr uint8_t kSignatureMid = 0x14, kSignatureHigh = 0xeb;
constexpr uint32_t kBufferBlocks = Drive::kBufferBytes / scsi::kCdBlock;

}  // namespace

CdDrive::CdDrive(std::shared_ptr<block::Backend> medium, const Options& options)
    : medium_(std::move(medium)),
      options_(options),
      unit_(scsi::CdUnit::Bus::kAtapi, medium_, options.model, options.version) {}

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
  if (next_ >= unit_.blocks() || now > unit_.blocks() - next_)
    return check_condition(scsi::sense::kOutOfRange);
  begin_host(buffer_request(HostRequest::Kind::kRead, uint64_t{next_} * scsi::kCdBlock,
                            uint64_t{now} * scsi::kCdBlock));
}

void CdDrive::host_done(int error) {
  if (error != 0 || step_ != Step::kBlocks) return check_condition(scsi::sense::kReadError);
  const uint32_t now = std::min(left_, kBufferBlocks);
  next_ += now;
  left_ -= now;
  filled_ = size_t{now} * scsi::kCdBlock;
  offer(0);
}

void CdDrive::dma_done() {
  good();
}

void CdDrive::dma_failed(int) {
  check_condition(scsi::sense::kReadError);
}

void CdDrive::dispatch() {
  using Kind = scsi::CdUnit::Outcome::Kind;
  const auto outcome = unit_.execute(packet_);
  switch (outcome.kind) {
    case Kind::kGood:
      return good();
    case Kind::kSense:
      return end_with_sense(outcome.sense);
    case Kind::kReply:
      return reply(outcome.reply);
    case Kind::kRead:
      return read_blocks(outcome.first, outcome.count);
  }
}

void CdDrive::read_blocks(uint32_t first, uint32_t count) {
  step_ = Step::kBlocks;
  if (by_dma_)
    return begin_dma_disk(true, uint64_t{first} * scsi::kCdBlock, uint64_t{count} * scsi::kCdBlock);
  next_ = first;
  left_ = count;
  next_blocks();
}

void CdDrive::reply(const scsi::Bytes& bytes) {
  std::copy(bytes.begin(), bytes.end(), buffer().begin());
  filled_ = bytes.size();
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

void CdDrive::check_condition(const scsi::Sense& sense) {
  end_with_sense(unit_.fail(sense).sense);
}

void CdDrive::end_with_sense(const scsi::Sense& sense) {
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
  unit_.reset();
  dma_mode_ = 0x22;
}

bool CdDrive::open_tray(bool force) {
  if (unit_.tray_open()) return true;
  if (!unit_.open_tray(force)) return false;
  if (step_ == Step::kBlocks) fail_data();
  return true;
}

void CdDrive::close_tray() {
  unit_.close_tray();
}

void CdDrive::drive_state(state::Archive& archive) {
  archive.section("cd drive", 1);
  uint64_t size = medium_ == nullptr ? 0 : medium_->size();
  archive.field("size", size);
  archive.check(size == (medium_ == nullptr ? 0 : medium_->size()), "size of the medium");
  unit_.state(archive);
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
  archive.check(next_ <= unit_.blocks() && left_ <= unit_.blocks() - std::min(next_, unit_.blocks()),
                "blocks");
  archive.check(!in_dma() || dma_to_guest(), "direction");
  if (!archive.loading()) return;
  limit_ = archive.failed() ? 0 : limit;
  filled_ = archive.failed() ? 0 : filled;
}

}  // namespace ostler::ide
