// A CD and DVD reader: its commands and its tray (SPC-3, MMC-5), apart from the way that data travel. The
// medium is one data track of 2048-byte blocks, or none; the host can change it while the tray is open.
//
// The owner's lock is held for each call.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "block/backend.h"
#include "devices/scsi/bytes.h"
#include "devices/scsi/sense.h"
#include "state/archive.h"

namespace ostler::scsi {

inline constexpr uint32_t kCdBlock = 2048;

class CdUnit {
 public:
  // As MMC-5 numbers them (§5.3.2). On ATAPI the unit keeps sense data for REQUEST SENSE, and answers
  // INQUIRY.
  enum class Bus : uint8_t { kScsi = 1, kAtapi = 2 };

  // What a command comes to.
  struct Outcome {
    enum class Kind : uint8_t { kGood, kReply, kSense, kRead };
    Kind kind = Kind::kGood;
    Sense sense = {};
    Bytes reply = {};               // at most as long as the command allows
    uint32_t first = 0, count = 0;  // of kRead: blocks, count > 0
  };

  // `medium` null: there is none, and never will be.
  CdUnit(Bus bus, std::shared_ptr<block::Backend> medium, std::string model, std::string version)
      : bus_(bus), medium_(std::move(medium)), model_(std::move(model)), version_(std::move(version)) {}

  Outcome execute(std::span<const uint8_t> command);
  // A command that was under way fails.
  Outcome fail(const Sense& sense);
  // The unit attention that goes before that command; it is told once.
  std::optional<Sense> take_attention(uint8_t opcode);

  // False: the guest has locked the tray, and `force` is not given; it is asked to open it by an event.
  bool open_tray(bool force);
  // Sense data and an event tell the guest of the medium that is there now.
  void close_tray();
  bool tray_open() const { return tray_open_; }
  bool locked() const { return locked_; }
  uint32_t blocks() const;
  void reset();
  void state(state::Archive& archive);

 private:
  static constexpr size_t kPacket = 12;
  enum class MediaEvent : uint8_t { kNone, kEjectRequest, kNewMedium, kRemoved };
  static constexpr uint8_t kMediaEvents = 4;

  bool has_medium() const { return blocks() != 0 && !tray_open_; }
  bool is_dvd() const;
  Outcome good() const;
  // data_, at most `allowed` bytes of it.
  Outcome reply(size_t bytes, size_t allowed);

  // Commands, named by the standards.
  Outcome inquiry();
  Outcome start_stop_unit();
  Outcome read_blocks(uint32_t first, uint32_t count);
  Outcome read_cd();
  Outcome read_toc();
  Outcome read_sub_channel();
  Outcome get_configuration();
  Outcome get_event_status();
  Outcome read_disc_information();
  Outcome mechanism_status();
  Outcome mode_sense(bool ten);
  size_t put_page(size_t at, uint8_t page, uint8_t control);
  uint8_t byte(size_t at) const { return packet_[at]; }
  uint32_t be(size_t at, size_t size) const { return static_cast<uint32_t>(big_endian(packet_, at, size)); }

  const Bus bus_;
  const std::shared_ptr<block::Backend> medium_;
  const std::string model_, version_;
  std::array<uint8_t, kPacket> packet_{};
  Bytes data_;
  bool tray_open_ = false, locked_ = false;
  bool attention_ = true;  // unit attention waits: of a reset, or of another medium
  bool new_medium_ = false;
  MediaEvent event_ = MediaEvent::kNone;
  Sense sense_ = {};
};

}  // namespace ostler::scsi
