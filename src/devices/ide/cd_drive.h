// A CD and DVD reader (ATA/ATAPI-7 §5.8 PACKET; commands: SPC-3, MMC-5). The medium is one data track of
// 2048-byte blocks, or none; the host can change it while the tray is open.
#pragma once

#include <memory>
#include <string>

#include "devices/ide/drive.h"
#include "devices/ide/options.h"

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
  bool tray_open() const { return tray_open_; }
  bool locked() const { return locked_; }

  std::shared_ptr<block::Backend> node() const override { return medium_; }

 private:
  static constexpr size_t kPacket = 12;
  // What the data of the current command are.
  enum class Step : uint8_t { kNone, kPacket, kReply, kBlocks };
  static constexpr uint8_t kSteps = 4;
  enum class MediaEvent : uint8_t { kNone, kEjectRequest, kNewMedium, kRemoved };
  static constexpr uint8_t kMediaEvents = 4;
  struct Sense {
    uint8_t key, code, qualifier;
  };

  void execute(uint8_t code) override;
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
  uint64_t disk_bytes() const override { return uint64_t{blocks()} * kCdSector; }
  size_t kept_bytes() const override { return filled_; }

  void identify();
  void packet();
  void offer(size_t from);
  void end_command();
  // The answer in the buffer, at most `allowed` bytes of it.
  void reply(size_t bytes, size_t allowed);
  void good();
  void check_condition(Sense sense);
  bool medium_ready(Sense& sense) const;
  bool has_medium() const { return blocks() != 0 && !tray_open_; }
  uint32_t blocks() const;
  bool is_dvd() const;

  // Commands, named by the standards.
  void dispatch();
  void request_sense();
  void inquiry();
  void start_stop_unit();
  void prevent_allow();
  void read_capacity();
  void read_blocks(uint32_t first, uint32_t count);
  void read_cd();
  void read_toc();
  void read_sub_channel();
  void get_configuration();
  void get_event_status();
  void read_disc_information();
  void mechanism_status();
  void mode_sense();
  void next_blocks();
  uint8_t byte(size_t at) const { return packet_[at]; }
  uint32_t be16(size_t at) const { return uint32_t{packet_[at]} << 8 | packet_[at + 1]; }
  uint32_t be32(size_t at) const { return be16(at) << 16 | be16(at + 2); }
  void put(size_t at, unsigned value) { buffer()[at] = static_cast<std::byte>(value); }
  void put16(size_t at, unsigned value);
  void put32(size_t at, uint32_t value);
  void clear(size_t bytes);
  void put_text(size_t at, size_t bytes, const std::string& text);
  size_t put_page(size_t at, uint8_t page, uint8_t control);

  const std::shared_ptr<block::Backend> medium_;
  const Options options_;
  bool tray_open_ = false, locked_ = false;
  bool attention_ = true;  // unit attention waits: of a reset, or of another medium
  bool new_medium_ = false;
  MediaEvent event_ = MediaEvent::kNone;
  Sense sense_ = {};
  uint8_t dma_mode_ = 0x22;

  Step step_ = Step::kNone;
  std::array<uint8_t, kPacket> packet_{};
  bool by_dma_ = false;
  size_t limit_ = 0;              // bytes between two interrupts
  size_t filled_ = 0;             // of the buffer
  uint32_t next_ = 0, left_ = 0;  // blocks of kBlocks that are not in the buffer
};

}  // namespace ostler::ide
