// A logical unit as its controller sees it (SAM-5, SPC-4): takes commands, answers what all units answer
// alike, and holds unit attentions until the initiator hears of them. One initiator.
//
// execute() on any thread, several at once; a command ends on any thread. Lock order: none of the unit's is
// held when a command completes or the listener is called.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "block/backend.h"
#include "devices/scsi/command.h"
#include "devices/scsi/options.h"
#include "state/archive.h"

namespace ostler::scsi {

class LogicalUnit;

// The controller, as its units call it.
class Listener {
 public:
  virtual ~Listener() = default;
  // A unit attention `why` waits, of something that the host did. Any thread.
  virtual void unit_changed(LogicalUnit& unit, const Sense& why) = 0;
  // Commands of the unit that were kept can be executed again. The machine's thread.
  virtual void unit_resumed(LogicalUnit& unit) = 0;
};

enum class DeviceKind : uint8_t { kDisk = 0x00, kCd = 0x05 };  // peripheral device types

class LogicalUnit {
 public:
  LogicalUnit(DeviceKind kind, Options options);
  virtual ~LogicalUnit() = default;
  LogicalUnit(const LogicalUnit&) = delete;
  LogicalUnit& operator=(const LogicalUnit&) = delete;

  // Before the guest runs. Null: nobody listens any more.
  virtual void connect(Listener* listener) { listener_ = listener; }
  void execute(const std::shared_ptr<Command>& command);
  // Of the unit, its target or the whole bus. No command is executed meanwhile.
  virtual void reset() = 0;
  // Once a command that is to be kept is in the controller's list: the guest is paused for that error.
  virtual void pause_guest(int error) = 0;
  virtual void state(state::Archive& archive) = 0;
  DeviceKind kind() const { return kind_; }

 protected:
  // None of these waits in front of a command that all units must answer (SPC-4 §5.14): INQUIRY, REQUEST
  // SENSE.
  virtual std::optional<Sense> take_attention(uint8_t opcode) = 0;
  virtual void perform(const std::shared_ptr<Command>& command) = 0;
  // A page of its vital product data, from its fifth byte on; none: there is no such page.
  virtual std::optional<Bytes> product_data(uint8_t page) const = 0;

  const Options& options() const { return options_; }
  void tell(const Sense& why) {
    if (listener_ != nullptr) listener_->unit_changed(*this, why);
  }
  void resumed() {
    if (listener_ != nullptr) listener_->unit_resumed(*this);
  }

  static void good(const std::shared_ptr<Command>& command) { command->completed(command); }
  static void fail(const std::shared_ptr<Command>& command, const Sense& sense);
  // The host's request for it has ended. An errno that is reported becomes sense data.
  static void ended(block::Backend& backend, const std::shared_ptr<Command>& command, bool is_read,
                    int error);
  // At most `allowed` bytes of the answer.
  static void reply(const std::shared_ptr<Command>& command, const Bytes& bytes, uint64_t allowed);

 private:
  void inquiry(const std::shared_ptr<Command>& command);
  void request_sense(const std::shared_ptr<Command>& command);
  Bytes identification() const;

  const DeviceKind kind_;
  const Options options_;
  Listener* listener_ = nullptr;
};

// What a target answers of a unit that it does not have (SPC-4 §6.6.2): INQUIRY tells so, all else fails.
void execute_without_unit(const std::shared_ptr<Command>& command);
// SPC-4 §6.33; `luns`: the units of a target, in order; none when the command came by the unit that is there
// for it.
void report_luns(const std::shared_ptr<Command>& command, std::span<const uint16_t> luns);

inline constexpr uint8_t kReportLuns = 0xa0;

}  // namespace ostler::scsi
