// Transfers of sectors; which command means which is in ata_commands.cpp.
#include "devices/ide/ata_disk.h"

#include <algorithm>
#include <limits>

#include "base/bytes.h"

namespace ostler::ide {
namespace {

constexpr uint32_t kVerifySectors = Drive::kBufferBytes / kSector;
constexpr uint32_t kTrimEntry = 8;

}  // namespace

AtaDisk::AtaDisk(std::shared_ptr<block::Backend> node, const Options& options)
    : node_(std::move(node)), options_(options) {
  cylinders_ = static_cast<uint16_t>(std::min<uint64_t>(sectors() / (16 * 63), 16383));
  idle_status_ = status::kReady | status::kSeekDone;
}

// §4.1 (ATA/ATAPI-6 §6.2 for cylinders, heads and sectors). False: outside of the disk.
bool AtaDisk::address(bool extended, Addressing& result) const {
  result.extended = extended;
  uint64_t lba = uint64_t{task_.low.now} | uint64_t{task_.mid.now} << 8 | uint64_t{task_.high.now} << 16;
  if (extended) {
    lba |= uint64_t{task_.low.before} << 24 | uint64_t{task_.mid.before} << 32 |
           uint64_t{task_.high.before} << 40;
    result.sectors = task_.count.now | uint32_t{task_.count.before} << 8;
    if (result.sectors == 0) result.sectors = 65536;
  } else {
    result.sectors = task_.count.now == 0 ? 256 : task_.count.now;
    const uint64_t head = task_.device & 15;
    if ((task_.device & device::kLba) != 0) {
      lba |= head << 24;
    } else {
      const uint64_t sector = task_.low.now, cylinder = lba >> 8;
      if (sector == 0 || sector > sectors_per_track_ || head >= heads_) return false;
      lba = (cylinder * heads_ + head) * sectors_per_track_ + sector - 1;
    }
  }
  result.lba = lba;
  return lba < sectors() && result.sectors <= sectors() - lba;
}

// Where a command stopped, in the form in which it got its address.
void AtaDisk::set_lba(uint64_t lba) {
  if (!extended_ && (task_.device & device::kLba) == 0) {
    const uint64_t track = lba / sectors_per_track_;
    task_.low.now = static_cast<uint8_t>(lba % sectors_per_track_ + 1);
    task_.mid.now = static_cast<uint8_t>(track / heads_);
    task_.high.now = static_cast<uint8_t>(track / heads_ >> 8);
    task_.device = static_cast<uint8_t>((task_.device & 0xf0) | track % heads_);
    return;
  }
  task_.low.now = static_cast<uint8_t>(lba);
  task_.mid.now = static_cast<uint8_t>(lba >> 8);
  task_.high.now = static_cast<uint8_t>(lba >> 16);
  if (extended_) {
    task_.low.before = static_cast<uint8_t>(lba >> 24);
    task_.mid.before = static_cast<uint8_t>(lba >> 32);
    task_.high.before = static_cast<uint8_t>(lba >> 40);
  } else {
    task_.device = static_cast<uint8_t>((task_.device & 0xf0) | (lba >> 24 & 15));
  }
}

void AtaDisk::begin(Action action, Way way, bool extended, bool through) {
  if (way == Way::kMultiple && multiple_ == 0) return abort();
  Addressing where = {};
  extended_ = extended;
  if (!address(extended, where)) return finish(status::kError, error::kNotFound);
  action_ = action;
  lba_ = where.lba;
  left_ = where.sectors;
  block_ = way == Way::kMultiple ? multiple_ : 1;
  through_ = action == Action::kWrite && (through || !write_cache_);
  if (way == Way::kDma)
    begin_dma_disk(action == Action::kRead, lba_ * kSector, uint64_t{left_} * kSector);
  else if (action == Action::kVerify)
    next_verify();
  else
    next_block(false);
}

// PIO: reads the next block from the disk, or asks the guest for it.
void AtaDisk::next_block(bool interrupt) {
  const uint32_t now = std::min(left_, block_);
  if (action_ == Action::kWrite) return begin_data_out(now * kSector, interrupt);
  begin_host(buffer_request(HostRequest::Kind::kRead, lba_ * kSector, now * kSector));
}

void AtaDisk::next_verify() {
  begin_host(buffer_request(HostRequest::Kind::kRead, lba_ * kSector,
                            uint64_t{std::min(left_, kVerifySectors)} * kSector));
}

void AtaDisk::data_read() {
  if (action_ != Action::kRead || left_ == 0) {
    // The last block has been announced by its interrupt; its end has none (§9.5, "PIO data-in").
    action_ = Action::kNone;
    const bool before = interrupt();
    finish();
    if (!before) acknowledge();
    return;
  }
  next_block(true);
}

void AtaDisk::write_block() {
  begin_host(
      buffer_request(HostRequest::Kind::kWrite, lba_ * kSector, uint64_t{std::min(left_, block_)} * kSector));
}

void AtaDisk::data_written() {
  if (action_ == Action::kWriteBuffer) {
    std::copy_n(buffer().begin(), kSector, scratch_.begin());
    action_ = Action::kNone;
    return finish();
  }
  if (action_ != Action::kWrite || left_ == 0) return abort();
  write_block();
}

void AtaDisk::host_done(int error) {
  switch (action_) {
    case Action::kFlush:
      if (error != 0) return fail(lba_);
      action_ = Action::kNone;
      return finish();
    case Action::kTrim:
      if (error != 0) return fail(lba_);
      return next_trim();
    case Action::kRead:
    case Action::kWrite:
    case Action::kVerify: {
      if (error != 0) return fail(lba_);
      const uint32_t now = std::min(left_, action_ == Action::kVerify ? kVerifySectors : block_);
      lba_ += now;
      left_ -= now;
      if (action_ == Action::kRead) return begin_data_in(0, now * kSector, true);
      if (left_ == 0) return complete();
      if (action_ == Action::kVerify) return next_verify();
      return next_block(true);
    }
    case Action::kNone:
    case Action::kReadBuffer:
    case Action::kWriteBuffer:
      break;
  }
  fail(lba_);
}

bool AtaDisk::may_repeat() const {
  switch (action_) {
    case Action::kFlush:
      return true;
    case Action::kTrim:
      return block_ != 0;
    case Action::kRead:
    case Action::kWrite:
    case Action::kVerify:
      return left_ != 0;
    case Action::kNone:
    case Action::kReadBuffer:
    case Action::kWriteBuffer:
      break;
  }
  return false;
}

void AtaDisk::repeat_host() {
  switch (action_) {
    case Action::kFlush:
      return begin_host({});
    case Action::kTrim:
      --block_;
      return next_trim();
    case Action::kRead:
      return next_block(false);
    case Action::kVerify:
      return next_verify();
    case Action::kWrite:
      return write_block();
    case Action::kNone:
    case Action::kReadBuffer:
    case Action::kWriteBuffer:
      break;
  }
  fail(lba_);
}

void AtaDisk::dma_done() {
  if (action_ == Action::kTrim) return next_trim();
  left_ = 0;
  complete();
}

void AtaDisk::dma_failed(int) {
  fail(dma_offset() / kSector);
}

void AtaDisk::complete() {
  if (!through_) {
    action_ = Action::kNone;
    return finish();
  }
  action_ = Action::kFlush;
  begin_host({});
}

void AtaDisk::fail(uint64_t lba) {
  const bool reads = action_ == Action::kRead || action_ == Action::kVerify;
  action_ = Action::kNone;
  set_lba(lba);
  finish(status::kError, reads ? error::kUncorrectable : error::kAborted);
}

// §7.5.3: ranges of 8 bytes, 48 bits of address and 16 of length. All are looked at before the first is
// carried out.
void AtaDisk::next_trim() {
  const auto entry = [this](uint32_t index) {
    return load_le<uint64_t>(reinterpret_cast<const uint8_t*>(buffer().data()) + index * size_t{kTrimEntry});
  };
  const auto fits = [this](uint64_t range) {
    const uint64_t first = range & 0xffff'ffff'ffff, count = range >> 48;
    return count == 0 || (first < sectors() && count <= sectors() - first);
  };
  bool good = true;
  if (block_ == 0)
    for (uint32_t i = 0; i < left_; ++i) good = good && fits(entry(i));
  while (good && block_ < left_) {
    const uint64_t range = entry(block_++);
    good = fits(range);
    if (!good || range >> 48 == 0) continue;
    HostRequest request;
    request.kind = HostRequest::Kind::kDiscard;
    request.offset = (range & 0xffff'ffff'ffff) * kSector;
    request.bytes = (range >> 48) * kSector;
    return begin_host(std::move(request));
  }
  action_ = Action::kNone;
  if (!good) return finish(status::kError, error::kNotFound);
  finish();
}

void AtaDisk::set_signature() {
  idle_status_ = status::kReady | status::kSeekDone;
  task_.count.now = task_.low.now = 1;
}

void AtaDisk::reset_drive(bool hardware) {
  action_ = Action::kNone;
  standby_ = false;
  if (!hardware) return;  // SRST keeps the settings (§7.47.1, "revert to defaults" is off)
  multiple_ = 0;
  dma_mode_ = 0x22;
  write_cache_ = look_ahead_ = smart_ = true;
  heads_ = 16;
  sectors_per_track_ = 63;
  cylinders_ = static_cast<uint16_t>(std::min<uint64_t>(sectors() / (16 * 63), 16383));
}

void AtaDisk::drive_state(state::Archive& archive) {
  archive.section("ata disk", 1);
  uint64_t size = node_->size();
  archive.field("size", size);
  archive.check(size == node_->size(), "size of the disk");
  archive.field("cylinders", cylinders_);
  archive.field("heads", heads_);
  archive.field("sectors per track", sectors_per_track_);
  archive.check(heads_ >= 1 && heads_ <= 16 && sectors_per_track_ >= 1 && sectors_per_track_ <= 63,
                "geometry");
  archive.field("multiple", multiple_);
  archive.check(multiple_ <= 16, "multiple");
  archive.field("dma mode", dma_mode_);
  archive.field("write cache", write_cache_);
  archive.field("look ahead", look_ahead_);
  archive.field("smart", smart_);
  archive.field("standby", standby_);
  archive.bytes("scratch", scratch_);
  archive.field("action", action_);
  archive.check(static_cast<uint8_t>(action_) < kActions, "action");
  archive.field("lba", lba_);
  archive.field("left", left_);
  archive.field("block", block_);
  archive.field("through", through_);
  archive.field("extended", extended_);
  const bool trims = action_ == Action::kTrim;
  if (action_ == Action::kNone) return;  // what the last command has left
  archive.check(trims ? left_ * uint64_t{kTrimEntry} <= kBufferBytes && block_ <= left_
                      : lba_ <= sectors() && left_ <= sectors() - lba_ && block_ >= 1 && block_ <= 16,
                "range");
}

}  // namespace ostler::ide
