// The 16550A UART (National PC16550D datasheet, June 1995). Any thread; one mutex. The line is infinitely
// fast towards the host: a byte leaves the transmitter as soon as the back end takes it. Time matters only
// for the receiver's four-character timeout.
//
// As on a PC board, OUT2 gates the interrupt line.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/io_handler.h"
#include "bus/irq.h"
#include "chardev/char_backend.h"
#include "event/loop.h"
#include "state/archive.h"

namespace ostler::chipset {

class Uart final : public bus::IoHandler, public chardev::CharFrontend, public state::Savable {
 public:
  static constexpr uint64_t kSize = 8;

  // `backend` null: output is dropped, nothing is received.
  Uart(event::Loop& loop, bus::IrqLine irq, chardev::CharBackend* backend);
  ~Uart() override;
  void reset();

  std::string_view name() const override { return "uart"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

  size_t can_receive() override;
  void receive(std::span<const std::byte> bytes) override;
  void event(chardev::CharEvent event) override;
  void writable() override;

  void state(state::Archive& archive) override;

 private:
  static constexpr unsigned kFifoSize = 16;
  // A queue of bytes and, for the receiver, their break flag.
  struct Fifo {
    std::array<uint8_t, kFifoSize> bytes{};
    std::array<uint8_t, kFifoSize> flags{};  // LSR bits that belong to the byte
    unsigned head = 0, count = 0;
    void clear() { head = count = 0; }
    void push(uint8_t byte, uint8_t flag);
    uint8_t pop();
    uint8_t head_flags() const { return count == 0 ? 0 : flags[head]; }
    void state(state::Archive& archive);
  };

  uint8_t read_locked(uint64_t reg);
  void write_locked(uint64_t reg, uint8_t value);
  uint8_t read_buffer_locked();
  uint8_t identify_locked() const;
  uint8_t line_status_locked() const;
  uint8_t modem_status_locked() const;
  void write_fifo_control_locked(uint8_t value);
  void write_modem_control_locked(uint8_t value);
  void transmit_locked(uint8_t value);
  void drain_locked();
  void receive_locked(uint8_t byte, uint8_t flags);
  void update_irq_locked();
  void restart_timeout_locked();
  void timeout();
  bool fifo_enabled() const { return (fifo_control_ & 1) != 0; }
  bool loopback() const { return (modem_control_ & 0x10) != 0; }
  unsigned receive_capacity() const { return fifo_enabled() ? kFifoSize : 1; }
  unsigned trigger_level() const;

  event::Loop& loop_;
  const bus::IrqLine irq_;
  chardev::CharBackend* const backend_;
  std::mutex mutex_;
  Fifo rx_, tx_;
  uint16_t divisor_ = 12;  // 9600 baud
  uint8_t interrupt_enable_ = 0, fifo_control_ = 0, line_control_ = 0, modem_control_ = 0, scratch_ = 0;
  uint8_t modem_lines_ = 0xb0;  // DCD, DSR, CTS from the other end
  uint8_t modem_delta_ = 0;
  bool overrun_ = false, transmit_empty_pending_ = false, timeout_pending_ = false,
       line_status_pending_ = false;
  bool line_ = false;
  int64_t timeout_at_ = -1;
  event::Timer timer_;
};

}  // namespace ostler::chipset
