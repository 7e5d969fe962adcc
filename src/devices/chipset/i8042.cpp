#include "devices/chipset/i8042.h"

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::chipset {
namespace {

// Status register.
constexpr uint8_t kOutputFull = 1, kSystem = 4, kLastWasCommand = 8, kUnlocked = 0x10, kAuxiliary = 0x20;
// Command byte.
constexpr uint8_t kKeyboardInterrupt = 1, kMouseInterrupt = 2, kSystemFlag = 4, kKeyboardOff = 0x10,
                  kMouseOff = 0x20, kTranslate = 0x40;
// Output port.
constexpr uint8_t kNoReset = 1, kA20 = 2;

enum Command : uint8_t {
  kReadRam = 0x20,
  kWriteRam = 0x60,
  kMouseDisable = 0xa7,
  kMouseEnable = 0xa8,
  kMouseTest = 0xa9,
  kSelfTest = 0xaa,
  kKeyboardTest = 0xab,
  kKeyboardDisable = 0xad,
  kKeyboardEnable = 0xae,
  kReadInputPort = 0xc0,
  kReadOutputPort = 0xd0,
  kWriteOutputPort = 0xd1,
  kWriteKeyboardBuffer = 0xd2,
  kWriteMouseBuffer = 0xd3,
  kWriteMouse = 0xd4,
  kPulse = 0xf0,
};

constexpr uint8_t kAck = 0xfa, kResend = 0xfe, kTestPassed = 0xaa;

}  // namespace

bool I8042::Queue::push(uint8_t byte) {
  if (count == kQueueSize) return false;
  bytes[(head + count) % kQueueSize] = byte;
  ++count;
  return true;
}

uint8_t I8042::Queue::pop() {
  const uint8_t byte = bytes[head];
  head = (head + 1) % kQueueSize;
  --count;
  return byte;
}

void I8042::Queue::state(state::Archive& archive) {
  archive.field("bytes", bytes);
  archive.field("head", head);
  archive.field("count", count);
  archive.check(head < kQueueSize && count <= kQueueSize, "queue");
}

I8042::I8042(bus::IrqLine keyboard_irq, bus::IrqLine mouse_irq, SystemRequests& requests)
    : keyboard_irq_(keyboard_irq),
      mouse_irq_(mouse_irq),
      requests_(requests),
      data_port_("i8042-data", *this, &I8042::read_data, &I8042::write_data),
      command_port_("i8042-command", *this, &I8042::read_command, &I8042::write_command) {
  reset();
}

void I8042::reset() {
  const std::lock_guard lock(mutex_);
  ram_.fill(0);
  ram_[0] = kSystemFlag | kTranslate | kKeyboardInterrupt | kMouseInterrupt;
  status_ = kUnlocked | kSystem;
  output_ = 0;
  output_port_ = kNoReset | kA20;
  expects_ = keyboard_expects_ = mouse_expects_ = 0;
  scan_set_ = 2;
  scanning_ = true;
  reporting_ = false;
  mouse_rate_ = 100;
  mouse_resolution_ = 2;
  controller_ = keyboard_ = mouse_ = mouse_loop_ = Queue();
  update_irqs_locked();
}

// Moves the next waiting byte into the output buffer: the controller's own answers first.
void I8042::refill_locked() {
  if ((status_ & kOutputFull) == 0) {
    status_ &= static_cast<uint8_t>(~kAuxiliary);
    if (controller_.count != 0) {
      output_ = controller_.pop();
      status_ |= kOutputFull;
    } else if (mouse_loop_.count != 0) {
      output_ = mouse_loop_.pop();
      status_ |= kOutputFull | kAuxiliary;
    } else if (keyboard_.count != 0 && (ram_[0] & kKeyboardOff) == 0) {
      output_ = keyboard_.pop();
      status_ |= kOutputFull;
    } else if (mouse_.count != 0 && (ram_[0] & kMouseOff) == 0) {
      output_ = mouse_.pop();
      status_ |= kOutputFull | kAuxiliary;
    }
  }
  update_irqs_locked();
}

void I8042::update_irqs_locked() {
  const bool full = (status_ & kOutputFull) != 0, auxiliary = (status_ & kAuxiliary) != 0;
  const bool keyboard = full && !auxiliary && (ram_[0] & kKeyboardInterrupt) != 0;
  const bool mouse = full && auxiliary && (ram_[0] & kMouseInterrupt) != 0;
  if (keyboard != keyboard_line_) {
    keyboard_line_ = keyboard;
    keyboard_irq_.set(keyboard);
  }
  if (mouse != mouse_line_) {
    mouse_line_ = mouse;
    mouse_irq_.set(mouse);
  }
}

uint64_t I8042::read_data(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t port) -> uint8_t {
    if (port != 0) return 0xff;
    const uint8_t value = output_;
    status_ &= static_cast<uint8_t>(~kOutputFull);
    update_irqs_locked();  // the line falls between two bytes
    refill_locked();
    return value;
  });
}

uint64_t I8042::read_command(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t port) { return port == 0 ? status_ : uint8_t{0xff}; });
}

void I8042::write_command(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if (port != 0) return;
    status_ |= kLastWasCommand;
    command_locked(byte);
    refill_locked();
  });
}

void I8042::write_data(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if (port != 0) return;
    status_ &= static_cast<uint8_t>(~kLastWasCommand);
    const uint8_t command = expects_;
    expects_ = 0;
    if (command != 0) {
      argument_locked(command, byte);
    } else {
      ram_[0] &= static_cast<uint8_t>(~kKeyboardOff);  // a byte for the keyboard turns its clock on
      keyboard_locked(byte);
    }
    refill_locked();
  });
}

void I8042::command_locked(uint8_t command) {
  expects_ = 0;
  if (command >= kReadRam && command < kReadRam + 32) {
    reply_locked(ram_[command - kReadRam]);
    return;
  }
  if (command >= kWriteRam && command < kWriteRam + 32) {
    expects_ = command;
    return;
  }
  if (command >= kPulse) {  // pulses the output lines whose bit is 0; bit 0 is the processor's reset
    if ((command & 1) == 0) requests_.request_reset("keyboard controller");
    return;
  }
  switch (command) {
    case kMouseDisable:
      ram_[0] |= kMouseOff;
      return;
    case kMouseEnable:
      ram_[0] &= static_cast<uint8_t>(~kMouseOff);
      return;
    case kMouseTest:
    case kKeyboardTest:
      reply_locked(0);
      return;
    case kSelfTest:
      status_ |= kSystem;
      reply_locked(0x55);
      return;
    case kKeyboardDisable:
      ram_[0] |= kKeyboardOff;
      return;
    case kKeyboardEnable:
      ram_[0] &= static_cast<uint8_t>(~kKeyboardOff);
      return;
    case kReadInputPort:
      reply_locked(0x80);  // keyboard not locked
      return;
    case kReadOutputPort:
      reply_locked(
          static_cast<uint8_t>(output_port_ | (keyboard_line_ ? 0x10 : 0) | (mouse_line_ ? 0x20 : 0)));
      return;
    case kWriteOutputPort:
    case kWriteKeyboardBuffer:
    case kWriteMouseBuffer:
    case kWriteMouse:
      expects_ = command;
      return;
    default:
      log::guest_error("i8042: unknown command {:#x}", command);
      return;
  }
}

void I8042::argument_locked(uint8_t command, uint8_t value) {
  switch (command) {
    case kWriteOutputPort:
      write_output_port_locked(value);
      return;
    case kWriteKeyboardBuffer:
      reply_locked(value);
      return;
    case kWriteMouseBuffer:
      mouse_loop_.push(value);
      return;
    case kWriteMouse:
      ram_[0] &= static_cast<uint8_t>(~kMouseOff);
      mouse_locked(value);
      return;
    default:  // kWriteRam and up
      ram_[(command - kWriteRam) & 31] = value;
      if (command == kWriteRam) status_ = static_cast<uint8_t>((status_ & ~kSystem) | (value & kSystemFlag));
      return;
  }
}

void I8042::write_output_port_locked(uint8_t value) {
  output_port_ = value & (kNoReset | kA20);
  if ((value & kNoReset) == 0) requests_.request_reset("keyboard controller output port");
}

void I8042::keyboard_locked(uint8_t value) {
  const uint8_t command = keyboard_expects_;
  keyboard_expects_ = 0;
  switch (command) {
    case 0:
      break;
    case 0xf0:  // scan code set; 0 asks
      keyboard_.push(value <= 3 ? kAck : kResend);
      if (value == 0)
        keyboard_.push(scan_set_);
      else if (value <= 3)
        scan_set_ = value;
      return;
    default:  // LEDs, typematic rate, key types
      keyboard_.push(kAck);
      return;
  }
  switch (value) {
    case 0xff:  // reset and self-test
      keyboard_ = Queue();
      scan_set_ = 2;
      scanning_ = true;
      keyboard_.push(kAck);
      keyboard_.push(kTestPassed);
      return;
    case 0xf2:  // identify: MF2 keyboard
      keyboard_.push(kAck);
      keyboard_.push(0xab);
      keyboard_.push((ram_[0] & kTranslate) != 0 ? 0x41 : 0x83);  // as the controller translates it
      return;
    case 0xee:
      keyboard_.push(0xee);
      return;
    case 0xed:
    case 0xf0:
    case 0xf3:
    case 0xfb:
    case 0xfc:
    case 0xfd:
      keyboard_expects_ = value;
      keyboard_.push(kAck);
      return;
    case 0xf4:
      scanning_ = true;
      keyboard_.push(kAck);
      return;
    case 0xf5:
      scanning_ = false;
      keyboard_.push(kAck);
      return;
    case 0xf6:
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa:
      keyboard_.push(kAck);
      return;
    default:
      keyboard_.push(kResend);
      return;
  }
}

void I8042::mouse_locked(uint8_t value) {
  const uint8_t command = mouse_expects_;
  mouse_expects_ = 0;
  if (command != 0) {
    (command == 0xf3 ? mouse_rate_ : mouse_resolution_) = value;
    mouse_.push(kAck);
    return;
  }
  switch (value) {
    case 0xff:
      mouse_ = Queue();
      reporting_ = false;
      mouse_rate_ = 100;
      mouse_resolution_ = 2;
      mouse_.push(kAck);
      mouse_.push(kTestPassed);
      mouse_.push(0);  // a standard mouse
      return;
    case 0xf2:
      mouse_.push(kAck);
      mouse_.push(0);
      return;
    case 0xe9:  // status: mode, resolution, rate
      mouse_.push(kAck);
      mouse_.push(reporting_ ? 0x20 : 0);
      mouse_.push(mouse_resolution_);
      mouse_.push(mouse_rate_);
      return;
    case 0xeb:  // read data: nothing has moved
      mouse_.push(kAck);
      mouse_.push(0x08);
      mouse_.push(0);
      mouse_.push(0);
      return;
    case 0xe8:
    case 0xf3:
      mouse_expects_ = value;
      mouse_.push(kAck);
      return;
    case 0xf4:
    case 0xf5:
    case 0xf6:
      reporting_ = value == 0xf4;
      mouse_.push(kAck);
      return;
    case 0xe6:
    case 0xe7:
    case 0xea:
    case 0xec:
    case 0xee:
    case 0xf0:
      mouse_.push(kAck);
      return;
    default:
      mouse_.push(kResend);
      return;
  }
}

bool I8042::put_key(std::span<const uint8_t> codes) {
  const std::lock_guard lock(mutex_);
  if (!scanning_ || keyboard_.count + codes.size() > kQueueSize) return false;
  for (const uint8_t code : codes) keyboard_.push(code);
  refill_locked();
  return true;
}

void I8042::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("i8042", 1);
  archive.field("ram", ram_);
  archive.field("status", status_);
  archive.field("output", output_);
  archive.field("output_port", output_port_);
  archive.field("expects", expects_);
  archive.field("keyboard_expects", keyboard_expects_);
  archive.field("mouse_expects", mouse_expects_);
  archive.field("scan_set", scan_set_);
  archive.field("scanning", scanning_);
  archive.field("reporting", reporting_);
  archive.field("mouse_rate", mouse_rate_);
  archive.field("mouse_resolution", mouse_resolution_);
  archive.field("keyboard_line", keyboard_line_);
  archive.field("mouse_line", mouse_line_);
  controller_.state(archive);
  keyboard_.state(archive);
  mouse_.state(archive);
  mouse_loop_.state(archive);
}

}  // namespace ostler::chipset
