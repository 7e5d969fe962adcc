#include "devices/ide/drive.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace ostler::ide {

Drive::Drive() : buffer_(std::make_shared<Bytes>(kBufferBytes)) {}

void Drive::write_register(Register index, uint8_t value) {
  if ((status() & status::kBusy) != 0) return;
  const auto shift = [value](Pair& pair) { pair = {value, pair.now}; };
  switch (index) {
    case Register::kFeatures:
      return shift(task_.features);
    case Register::kCount:
      return shift(task_.count);
    case Register::kLow:
      return shift(task_.low);
    case Register::kMid:
      return shift(task_.mid);
    case Register::kHigh:
      return shift(task_.high);
    case Register::kDevice:
      task_.device = value;
      return;
    case Register::kData:
    case Register::kCommand:
      return;
  }
}

uint8_t Drive::read_register(Register index, bool high_order) const {
  const auto of = [high_order](const Pair& pair) { return high_order ? pair.before : pair.now; };
  switch (index) {
    case Register::kFeatures:
      return error_;
    case Register::kCount:
      return of(task_.count);
    case Register::kLow:
      return of(task_.low);
    case Register::kMid:
      return of(task_.mid);
    case Register::kHigh:
      return of(task_.high);
    case Register::kDevice:
      return task_.device;
    case Register::kData:
    case Register::kCommand:
      break;
  }
  return status();
}

uint8_t Drive::status() const {
  if (reset_pending_) return status::kBusy;
  switch (phase_) {
    case Phase::kIdle:
      return idle_status_;
    case Phase::kDataIn:
    case Phase::kDataOut:
      return status::kReady | status::kSeekDone | status::kDataRequest;
    case Phase::kDma:
    case Phase::kHost:
      break;
  }
  return status::kBusy | status::kReady | status::kSeekDone;
}

void Drive::command(uint8_t code) {
  if (reset_pending_) return;
  interrupt_ = false;
  // §6.2: while a command is carried out no other begins, but for the reset of ATAPI devices. A disk, which
  // does not know that one, must not end a command by refusing it: the host may be busy with its request.
  if (phase_ != Phase::kIdle && (code != static_cast<uint8_t>(Command::kDeviceReset) || !has_device_reset()))
    return;
  if (phase_ == Phase::kIdle) error_ = 0;
  execute(code);
}

uint64_t Drive::read_data(unsigned size) {
  if (phase_ != Phase::kDataIn) return 0;
  uint64_t value = 0;
  for (unsigned i = 0; i < size && at_ < end_; ++i, ++at_)
    value |= std::to_integer<uint64_t>((*buffer_)[at_]) << (8 * i);
  if (at_ == end_) data_read();
  return value;
}

void Drive::write_data(unsigned size, uint64_t value) {
  if (phase_ != Phase::kDataOut) return;
  for (unsigned i = 0; i < size && at_ < end_; ++i, ++at_)
    (*buffer_)[at_] = static_cast<std::byte>(value >> (8 * i));
  if (at_ == end_) data_written();
}

void Drive::begin_data_in(size_t from, size_t to, bool interrupt) {
  phase_ = Phase::kDataIn;
  at_ = from;
  end_ = to;
  if (interrupt) interrupt_ = true;
}

void Drive::begin_data_out(size_t bytes, bool interrupt) {
  phase_ = Phase::kDataOut;
  at_ = 0;
  end_ = bytes;
  if (interrupt) interrupt_ = true;
}

void Drive::begin_dma_buffer(bool to_guest, size_t bytes) {
  phase_ = Phase::kDma;
  dma_to_guest_ = to_guest;
  dma_on_disk_ = false;
  at_ = 0;
  end_ = bytes;
}

void Drive::begin_dma_disk(bool to_guest, uint64_t offset, uint64_t bytes) {
  phase_ = Phase::kDma;
  dma_to_guest_ = to_guest;
  dma_on_disk_ = true;
  dma_offset_ = offset;
  dma_left_ = bytes;
}

void Drive::dma_advance(uint64_t bytes) {
  at_ += bytes;
  if (at_ == end_) dma_done();
}

void Drive::dma_disk(memory::Mapping mapping) {
  chunk_ = mapping.bytes;
  HostRequest request;
  request.kind = dma_to_guest_ ? HostRequest::Kind::kRead : HostRequest::Kind::kWrite;
  request.offset = dma_offset_;
  request.bytes = chunk_;
  request.mapping = std::move(mapping);
  request_ = std::move(request);
  with_host_ = true;
}

void Drive::begin_host(HostRequest request) {
  phase_ = Phase::kHost;
  request_ = std::move(request);
  with_host_ = true;
}

HostRequest Drive::buffer_request(HostRequest::Kind kind, uint64_t offset, uint64_t bytes) const {
  HostRequest request;
  request.kind = kind;
  request.offset = offset;
  request.bytes = bytes;
  request.buffer = buffer_;
  return request;
}

std::optional<HostRequest> Drive::take_request() {
  return std::exchange(request_, std::nullopt);
}

void Drive::request_done(int error) {
  with_host_ = false;
  if (reset_pending_) return reset_now();
  const uint64_t chunk = std::exchange(chunk_, 0);
  if (std::exchange(lost_, false)) return dma_failed(EIO);
  if (chunk == 0) return host_done(error);
  if (error != 0) return dma_failed(error);
  dma_offset_ += chunk;
  dma_left_ -= chunk;
  if (dma_left_ == 0) dma_done();
}

bool Drive::keep_request() {
  if (reset_pending_ || lost_) return false;
  with_host_ = false;
  chunk_ = 0;
  kept_ = true;
  return true;
}

void Drive::repeat_kept() {
  if (!std::exchange(kept_, false)) return;
  // A transfer goes on where its piece began.
  if (phase_ == Phase::kHost) repeat_host();
}

void Drive::fail_data() {
  kept_ = false;
  if (with_host_)
    lost_ = true;
  else if (phase_ != Phase::kIdle)
    dma_failed(EIO);
}

void Drive::finish(uint8_t extra_status, uint8_t error_bits) {
  phase_ = Phase::kIdle;
  error_ = error_bits;
  idle_status_ = static_cast<uint8_t>(status::kReady | status::kSeekDone | extra_status);
  interrupt_ = true;
}

void Drive::reset(bool hardware) {
  reset_pending_ = true;
  reset_hardware_ = hardware;
  if (!with_host_) reset_now();
}

void Drive::reset_now() {
  reset_pending_ = false;
  interrupt_ = false;
  phase_ = Phase::kIdle;
  request_.reset();
  lost_ = kept_ = false;
  chunk_ = 0;
  at_ = end_ = 0;
  reset_drive(reset_hardware_);
  diagnose();
}

// §9.12: the signature tells disks from others; code 1 says that the drive passed.
void Drive::diagnose() {
  if (phase_ != Phase::kIdle) return;
  task_ = {};
  error_ = 1;
  set_signature();
}

void Drive::state(state::Archive& archive) {
  archive.section("ide drive", 2);
  for (Pair* pair : {&task_.features, &task_.count, &task_.low, &task_.mid, &task_.high}) {
    archive.field("register", pair->now);
    archive.field("register before", pair->before);
  }
  archive.field("device", task_.device);
  archive.field("error", error_);
  archive.field("status", idle_status_);
  archive.check((idle_status_ & (status::kBusy | status::kDataRequest)) == 0, "status");
  archive.field("phase", phase_);
  archive.check(static_cast<uint8_t>(phase_) < kPhases, "phase");
  if (archive.loading()) kept_ = false;
  if (archive.version() >= 2) archive.field("kept", kept_);
  archive.check(kept_ ? phase_ == Phase::kHost || phase_ == Phase::kDma : phase_ != Phase::kHost, "kept");
  uint64_t at = at_, end = end_;
  archive.field("at", at);
  archive.field("end", end);
  const bool data = phase_ == Phase::kDataIn || phase_ == Phase::kDataOut;
  archive.check(at <= end && end <= kBufferBytes && (!data || at < end), "data");
  archive.field("dma to guest", dma_to_guest_);
  archive.field("dma on disk", dma_on_disk_);
  archive.field("dma offset", dma_offset_);
  archive.field("dma left", dma_left_);
  archive.field("interrupt", interrupt_);
  if (archive.loading()) {
    if (archive.failed()) at = end = 0;
    at_ = at;
    end_ = end;
  }
  drive_state(archive);
  const size_t kept = std::max(end_, kept_bytes());
  archive.bytes("buffer", std::span(*buffer_).first(archive.failed() ? 0 : kept));
  if (phase_ == Phase::kDma && dma_on_disk_)
    archive.check(dma_left_ != 0 && dma_left_ % kSector == 0 && dma_offset_ % kSector == 0 &&
                      dma_offset_ <= disk_bytes() && dma_left_ <= disk_bytes() - dma_offset_,
                  "dma range");
  else if (phase_ == Phase::kDma)
    archive.check(at_ < end_, "dma data");
  else if (phase_ == Phase::kHost)
    archive.check(may_repeat(), "kept request");
  if (archive.loading() && archive.failed()) {
    phase_ = Phase::kIdle;
    kept_ = false;
  }
}

}  // namespace ostler::ide
