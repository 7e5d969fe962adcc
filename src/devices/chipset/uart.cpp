#include "devices/chipset/uart.h"

#include <algorithm>

#include "base/bytes.h"
#include "devices/chipset/io_range.h"

namespace ostler::chipset {
namespace {

enum Register : unsigned { kData, kIer, kIirFcr, kLcr, kMcr, kLsr, kMsr, kScratch };

constexpr uint8_t kIerReceive = 1, kIerTransmit = 2, kIerLine = 4, kIerModem = 8;
constexpr uint8_t kIirNone = 1, kIirLine = 6, kIirReceive = 4, kIirTimeout = 0xc, kIirTransmit = 2,
                  kIirModem = 0;
constexpr uint8_t kFcrEnable = 1, kFcrClearReceive = 2, kFcrClearTransmit = 4;
constexpr uint8_t kLcrDivisor = 0x80;
constexpr uint8_t kMcrDtr = 1, kMcrRts = 2, kMcrOut1 = 4, kMcrOut2 = 8, kMcrMask = 0x1f;
constexpr uint8_t kLsrReady = 1, kLsrOverrun = 2, kLsrBreak = 0x10, kLsrEmpty = 0x20, kLsrIdle = 0x40,
                  kLsrFifoError = 0x80;
constexpr uint8_t kLsrErrors = 0x1c;  // parity, framing, break: belong to a byte
constexpr uint8_t kMsrCts = 0x10, kMsrDsr = 0x20, kMsrRing = 0x40, kMsrDcd = 0x80;

constexpr int64_t kClockHz = 1'843'200;
constexpr int64_t kTimeoutCharacters = 4;
constexpr int64_t kShortestTimeoutNs = 50'000;

}  // namespace

void Uart::Fifo::push(uint8_t byte, uint8_t flag) {
  const unsigned at = (head + count) % kFifoSize;
  bytes[at] = byte;
  flags[at] = flag;
  ++count;
}

uint8_t Uart::Fifo::pop() {
  const uint8_t byte = bytes[head];
  head = (head + 1) % kFifoSize;
  --count;
  return byte;
}

void Uart::Fifo::state(state::Archive& archive) {
  archive.field("bytes", bytes);
  archive.field("flags", flags);
  archive.field("head", head);
  archive.field("count", count);
  archive.check(head < kFifoSize, "head");
  archive.check(count <= kFifoSize, "count");
}

Uart::Uart(event::Loop& loop, bus::IrqLine irq, chardev::CharBackend* backend)
    : loop_(loop), irq_(irq), backend_(backend), timer_(loop, [this] { timeout(); }) {
  if (backend_ != nullptr) backend_->attach(this);
}

Uart::~Uart() {
  if (backend_ != nullptr) backend_->attach(nullptr);
}

void Uart::reset() {
  const std::lock_guard lock(mutex_);
  rx_.clear();
  tx_.clear();
  divisor_ = 12;
  interrupt_enable_ = fifo_control_ = line_control_ = modem_control_ = scratch_ = 0;
  modem_lines_ = kMsrDcd | kMsrDsr | kMsrCts;
  modem_delta_ = 0;
  overrun_ = transmit_empty_pending_ = timeout_pending_ = line_status_pending_ = false;
  timeout_at_ = -1;
  timer_.cancel();
  update_irq_locked();
  if (backend_ != nullptr) backend_->accept_input();
}

unsigned Uart::trigger_level() const {
  constexpr unsigned kLevels[] = {1, 4, 8, 14};
  return fifo_enabled() ? kLevels[fifo_control_ >> 6] : 1;
}

// Table IV of the datasheet: the highest-priority cause that is enabled.
uint8_t Uart::identify_locked() const {
  if ((interrupt_enable_ & kIerLine) != 0 && line_status_pending_) return kIirLine;
  if ((interrupt_enable_ & kIerReceive) != 0) {
    if (rx_.count >= trigger_level()) return kIirReceive;
    if (timeout_pending_) return kIirTimeout;
  }
  if ((interrupt_enable_ & kIerTransmit) != 0 && transmit_empty_pending_) return kIirTransmit;
  if ((interrupt_enable_ & kIerModem) != 0 && modem_delta_ != 0) return kIirModem;
  return kIirNone;
}

void Uart::update_irq_locked() {
  const bool want = identify_locked() != kIirNone && (modem_control_ & kMcrOut2) != 0 && !loopback();
  // In loopback the OUT2 pin is inactive, yet interrupts stay testable: PC boards leave the gate open then.
  const bool level = want || (loopback() && identify_locked() != kIirNone);
  if (level == line_) return;
  line_ = level;
  irq_.set(level);
}

uint8_t Uart::line_status_locked() const {
  uint8_t value = 0;
  if (rx_.count != 0) value |= kLsrReady;
  if (overrun_) value |= kLsrOverrun;
  value |= rx_.head_flags();
  if (tx_.count == 0) value |= kLsrEmpty | kLsrIdle;
  if (fifo_enabled())
    for (unsigned i = 0; i < rx_.count; ++i)
      if (rx_.flags[(rx_.head + i) % kFifoSize] != 0) value |= kLsrFifoError;
  return value;
}

uint8_t Uart::modem_status_locked() const {
  if (!loopback()) return modem_lines_;
  uint8_t value = 0;
  if ((modem_control_ & kMcrRts) != 0) value |= kMsrCts;
  if ((modem_control_ & kMcrDtr) != 0) value |= kMsrDsr;
  if ((modem_control_ & kMcrOut1) != 0) value |= kMsrRing;
  if ((modem_control_ & kMcrOut2) != 0) value |= kMsrDcd;
  return value;
}

uint64_t Uart::io_read(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size,
                    [&](uint64_t reg) { return reg < kSize ? read_locked(reg) : uint8_t{0xff}; });
}

void Uart::io_write(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t reg, uint8_t byte) {
    if (reg < kSize) write_locked(reg, byte);
  });
}

uint8_t Uart::read_locked(uint64_t reg) {
  const bool divisor = (line_control_ & kLcrDivisor) != 0;
  switch (reg) {
    case kData:
      return divisor ? static_cast<uint8_t>(divisor_) : read_buffer_locked();
    case kIer:
      return divisor ? static_cast<uint8_t>(divisor_ >> 8) : interrupt_enable_;
    case kIirFcr: {
      const uint8_t cause = identify_locked();
      if (cause == kIirTransmit) {  // reading it resets it
        transmit_empty_pending_ = false;
        update_irq_locked();
      }
      return static_cast<uint8_t>(cause | (fifo_enabled() ? 0xc0 : 0));
    }
    case kLcr:
      return line_control_;
    case kMcr:
      return modem_control_;
    case kLsr: {
      const uint8_t value = line_status_locked();
      overrun_ = false;
      line_status_pending_ = false;
      if (rx_.count != 0) rx_.flags[rx_.head] = 0;
      update_irq_locked();
      return value;
    }
    case kMsr: {
      const auto value = static_cast<uint8_t>(modem_status_locked() | modem_delta_);
      modem_delta_ = 0;
      update_irq_locked();
      return value;
    }
    default:
      return scratch_;
  }
}

uint8_t Uart::read_buffer_locked() {
  timeout_pending_ = false;
  uint8_t value = 0;
  if (rx_.count != 0) {
    value = rx_.pop();
    if (rx_.head_flags() != 0) line_status_pending_ = true;  // the next byte's errors come to the top
  }
  restart_timeout_locked();
  update_irq_locked();
  if (backend_ != nullptr && rx_.count == 0) backend_->accept_input();
  return value;
}

void Uart::write_locked(uint64_t reg, uint8_t value) {
  const bool divisor = (line_control_ & kLcrDivisor) != 0;
  switch (reg) {
    case kData:
      if (divisor)
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
      else
        transmit_locked(value);
      return;
    case kIer:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
        return;
      }
      if ((value & ~interrupt_enable_ & kIerTransmit) != 0 && tx_.count == 0) transmit_empty_pending_ = true;
      interrupt_enable_ = value & 15;
      update_irq_locked();
      return;
    case kIirFcr:
      write_fifo_control_locked(value);
      return;
    case kLcr:
      line_control_ = value;
      return;
    case kMcr:
      write_modem_control_locked(value);
      return;
    case kScratch:
      scratch_ = value;
      return;
    default:
      return;  // LSR is for factory tests, MSR is read-only
  }
}

void Uart::write_fifo_control_locked(uint8_t value) {
  const bool toggled = ((value ^ fifo_control_) & kFcrEnable) != 0;
  if ((value & kFcrEnable) == 0) value &= kFcrEnable;  // the other bits count only while it is set
  if (toggled || (value & kFcrClearReceive) != 0) {
    rx_.clear();
    timeout_pending_ = false;
    restart_timeout_locked();
    if (backend_ != nullptr) backend_->accept_input();
  }
  if (toggled || (value & kFcrClearTransmit) != 0) {
    if (tx_.count != 0) transmit_empty_pending_ = true;
    tx_.clear();
  }
  fifo_control_ = value & (kFcrEnable | 0xc0);
  update_irq_locked();
}

void Uart::write_modem_control_locked(uint8_t value) {
  const uint8_t before = modem_status_locked();
  modem_control_ = value & kMcrMask;
  const uint8_t after = modem_status_locked();
  const auto changed = static_cast<uint8_t>(before ^ after);
  // Deltas: CTS, DSR, DCD on any change, ring on its trailing edge.
  modem_delta_ |= static_cast<uint8_t>((changed >> 4) & 0xb);
  if ((changed & kMsrRing) != 0 && (after & kMsrRing) == 0) modem_delta_ |= 4;
  update_irq_locked();
}

void Uart::transmit_locked(uint8_t value) {
  transmit_empty_pending_ = false;
  if (loopback()) {
    receive_locked(value, 0);
    transmit_empty_pending_ = true;
    update_irq_locked();
    return;
  }
  const unsigned capacity = fifo_enabled() ? kFifoSize : 1;
  if (tx_.count >= capacity) {
    // Written without looking at THRE: in FIFO mode the byte is lost, else it takes the place of the last
    // one.
    if (!fifo_enabled()) tx_.bytes[tx_.head] = value;
  } else {
    tx_.push(value, 0);
  }
  drain_locked();
  update_irq_locked();
}

void Uart::drain_locked() {
  while (tx_.count != 0) {
    const uint8_t byte = tx_.bytes[tx_.head];
    if (backend_ != nullptr && backend_->write(std::as_bytes(std::span(&byte, 1))) == 0)
      return;  // writable() follows
    tx_.pop();
  }
  transmit_empty_pending_ = true;
}

void Uart::writable() {
  const std::lock_guard lock(mutex_);
  if (tx_.count == 0) return;
  drain_locked();
  update_irq_locked();
}

size_t Uart::can_receive() {
  const std::lock_guard lock(mutex_);
  return loopback() || rx_.count >= receive_capacity() ? 0 : receive_capacity() - rx_.count;
}

void Uart::receive(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (loopback()) return;
  for (const std::byte byte : bytes) receive_locked(static_cast<uint8_t>(byte), 0);
  update_irq_locked();
}

void Uart::receive_locked(uint8_t byte, uint8_t flags) {
  if (rx_.count >= receive_capacity()) {
    overrun_ = true;
    line_status_pending_ = true;
    if (!fifo_enabled()) rx_.bytes[rx_.head] = byte;  // the FIFO keeps what it has
    return;
  }
  rx_.push(byte, flags);
  if (rx_.count == 1 && flags != 0) line_status_pending_ = true;
  restart_timeout_locked();
}

void Uart::event(chardev::CharEvent event) {
  if (event != chardev::CharEvent::kBreak) return;
  const std::lock_guard lock(mutex_);
  receive_locked(0, kLsrBreak);
  update_irq_locked();
}

void Uart::restart_timeout_locked() {
  if (!fifo_enabled() || rx_.count == 0) {
    timeout_at_ = -1;
    timer_.cancel();
    return;
  }
  const int64_t divisor = std::max<int64_t>(divisor_, 1);
  constexpr int64_t kBits = 10;  // start, eight data, stop
  const int64_t wait = kTimeoutCharacters * kBits * divisor * 16 * 1'000'000'000 / kClockHz;
  timeout_at_ = loop_.clock().now() + std::max(wait, kShortestTimeoutNs);
  timer_.set(timeout_at_);
}

void Uart::timeout() {
  const std::lock_guard lock(mutex_);
  if (tx_.count != 0) {  // loaded with output that was waiting: see state()
    drain_locked();
    update_irq_locked();
  }
  if (timeout_at_ < 0) return;
  if (loop_.clock().now() < timeout_at_) {
    timer_.set(timeout_at_);
    return;
  }
  timeout_at_ = -1;
  if (rx_.count == 0) return;
  timeout_pending_ = true;
  update_irq_locked();
}

void Uart::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("uart", 1);
  rx_.state(archive);
  tx_.state(archive);
  archive.field("divisor", divisor_);
  archive.field("ier", interrupt_enable_);
  archive.field("fcr", fifo_control_);
  archive.field("lcr", line_control_);
  archive.field("mcr", modem_control_);
  archive.field("scratch", scratch_);
  archive.field("modem_lines", modem_lines_);
  archive.field("modem_delta", modem_delta_);
  archive.field("overrun", overrun_);
  archive.field("transmit_empty", transmit_empty_pending_);
  archive.field("timeout", timeout_pending_);
  archive.field("line_status", line_status_pending_);
  archive.field("line", line_);
  archive.field("timeout_at", timeout_at_);
  archive.check(rx_.count <= receive_capacity(), "rx");
  for (uint8_t& flags : rx_.flags) archive.check((flags & ~kLsrErrors) == 0, "flags");
  archive.check(timeout_at_ >= -1 && timeout_at_ < INT64_MAX / 2, "timeout_at");
  if (!archive.loading() || archive.failed()) return;
  // Output that waited for another back end goes to ours once the guest runs.
  if (tx_.count != 0)
    timer_.set(loop_.clock().now());
  else if (timeout_at_ >= 0)
    timer_.set(timeout_at_);
  else
    timer_.cancel();
  if (backend_ != nullptr) backend_->accept_input();
}

}  // namespace ostler::chipset
