// The keyboard controller with a keyboard and a mouse on it (IBM PS/2 Technical Reference, "Keyboard and
// auxiliary device controller"; Intel 8042). Any thread; one mutex.
//
// Deviations: bytes arrive at once, so the input buffer is never seen full; scan sets are accepted but keys
// are sent as put_key() gives them; the mouse reports no movement of its own.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>

#include "bus/irq.h"
#include "devices/chipset/io_range.h"
#include "devices/chipset/system_requests.h"
#include "state/archive.h"

namespace ostler::chipset {

class I8042 final : public state::Savable {
 public:
  I8042(bus::IrqLine keyboard_irq, bus::IrqLine mouse_irq, SystemRequests& requests);
  void reset();

  bus::IoHandler& data_port() { return data_port_; }        // 0x60
  bus::IoHandler& command_port() { return command_port_; }  // 0x64

  // Scan codes of one key event. False: the guest does not listen or its queue is full, and nothing was
  // taken.
  bool put_key(std::span<const uint8_t> codes);
  void state(state::Archive& archive) override;

 private:
  static constexpr unsigned kQueueSize = 32;
  struct Queue {
    std::array<uint8_t, kQueueSize> bytes{};
    unsigned head = 0, count = 0;
    bool push(uint8_t byte);
    uint8_t pop();
    void state(state::Archive& archive);
  };

  uint64_t read_data(uint64_t offset, unsigned size);
  void write_data(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_command(uint64_t offset, unsigned size);
  void write_command(uint64_t offset, unsigned size, uint64_t value);

  void command_locked(uint8_t command);
  void argument_locked(uint8_t command, uint8_t value);
  void write_output_port_locked(uint8_t value);
  void keyboard_locked(uint8_t value);
  void mouse_locked(uint8_t value);
  void refill_locked();
  void update_irqs_locked();
  void reply_locked(uint8_t value) { controller_.push(value); }

  const bus::IrqLine keyboard_irq_, mouse_irq_;
  SystemRequests& requests_;
  std::mutex mutex_;
  std::array<uint8_t, 32> ram_{};  // [0] is the command byte
  uint8_t status_ = 0, output_ = 0, output_port_ = 0;
  uint8_t expects_ = 0;           // controller command that waits for its argument, 0: none
  uint8_t keyboard_expects_ = 0;  // the same of the devices
  uint8_t mouse_expects_ = 0;
  uint8_t scan_set_ = 2;
  bool scanning_ = false, reporting_ = false;
  uint8_t mouse_rate_ = 100, mouse_resolution_ = 2;
  bool keyboard_line_ = false, mouse_line_ = false;
  Queue controller_, keyboard_, mouse_;
  Queue mouse_loop_;  // written by the guest as if the mouse had sent it; not held back by a disabled port
  IoRange<I8042> data_port_, command_port_;
};

}  // namespace ostler::chipset
