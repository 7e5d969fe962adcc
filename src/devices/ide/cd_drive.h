// A CD and DVD reader on an IDE cable (ATA/ATAPI-7 §5.8 PACKET): the way of packets and their data. Commands
// are scsi::CdUnit's.
#pragma once

#include <memory>
#include <string>

#include "devices/ide/drive.h"
#include "devices/ide/options.h"
#include "devices/scsi/cd_unit.h"

namespace ostler::ide {

class CdDrive final : public Drive {
 public:
  // `medium` null: there is none, and never will be.
  CdDrive(std::shared_ptr<block::Backend> medium, const Options& options);

  // ---- the host's side; through Channel::with_drive() ----
  // The medium may change while the tray is open: the disk below has another size, 0 for none. False: the
  // guest has locked the tray, and `force` is not given; it is asked to open it by an event.
  bool open_tray(bool force);
  // Sense data and an event tell the guest of the medium that is there now.
  void close_tray();
  bool tray_open() const { return unit_.tray_open(); }
  bool locked() const { return unit_.locked(); }

  std::shared_ptr<block::Backend> node() const override { return medium_; }

 private:
  static constexpr size_t kPacket = 12;
  // What the data of the current command are.
  enum class Step : uint8_t { kNone, kPacket, kReply, kBlocks };
  static constexpr uint8_t kSteps = 4;

  void execute(uint8_t code) override;
  bool has_device_reset() const override { return true; }
  void data_read() override;
  void data_written() override;
  void dma_done() override;
  void dma_failed(int error) override;
  void host_done(int error) override;
  void repeat_host() override { next_blocks(); }
  bool may_repeat() const override { return step_ == Step::kBlocks && left_ != 0; }
  void set_signature() override;
  void reset_drive(bool hardware) override;
  void drive_state(state::Archive& archive) override;
  uint64_t disk_bytes() const override { return uint64_t{unit_.blocks()} * scsi::kCdBlock; }
  size_t kept_bytes() const override { return filled_; }

  void identify();
  void packet();
  void offer(size_t from);
  void end_command();
  void reply(const scsi::Bytes& bytes);
  void good();
  void check_condition(const scsi::Sense& sense);
  void end_with_sense(const scsi::Sense& sense);
  void dispatch();
  void read_blocks(uint32_t first, uint32_t count);
  void next_blocks();

  const std::shared_ptr<block::Backend> medium_;
  const Options options_;
  scsi::CdUnit unit_;
  uint8_t dma_mode_ = 0x22;

  Step step_ = Step::kNone;
  std::array<uint8_t, kPacket> packet_{};
  bool by_dma_ = false;
  size_t limit_ = 0;              // bytes between two interrupts
  size_t filled_ = 0;             // of the buffer
  uint32_t next_ = 0, left_ = 0;  // blocks of kBlocks that are not in the buffer
};

}  // namespace ostler::ide
