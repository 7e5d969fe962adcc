// A hard disk (ACS-2, T13/2015-D): 28-bit, 48-bit and cylinder-head-sector addresses, PIO, multiple and DMA
// transfers, write cache, TRIM, SMART.
#pragma once

#include <memory>
#include <string>

#include "devices/ide/drive.h"
#include "devices/ide/options.h"

namespace ostler::ide {

class AtaDisk final : public Drive {
 public:
  // `node` can be written to.
  AtaDisk(std::shared_ptr<block::Backend> node, const Options& options);

  std::shared_ptr<block::Backend> node() const override { return node_; }

 private:
  // What the current command does with its sectors.
  enum class Action : uint8_t { kNone, kRead, kWrite, kVerify, kTrim, kReadBuffer, kWriteBuffer, kFlush };
  static constexpr uint8_t kActions = 8;
  enum class Way : uint8_t { kPio, kMultiple, kDma };
  struct Addressing {
    bool extended;  // 48 bits
    uint64_t lba;
    uint32_t sectors;
  };

  void execute(uint8_t code) override;
  void data_read() override;
  void data_written() override;
  void dma_done() override;
  void dma_failed(int error) override;
  void host_done(int error) override;
  void repeat_host() override;
  bool may_repeat() const override;
  void set_signature() override;
  void reset_drive(bool hardware) override;
  void drive_state(state::Archive& archive) override;
  uint64_t disk_bytes() const override { return sectors() * kSector; }

  uint64_t sectors() const { return node_->size() / kSector; }
  bool address(bool extended, Addressing& result) const;
  void set_lba(uint64_t lba);
  void begin(Action action, Way way, bool extended, bool through = false);
  void next_block(bool interrupt);
  void write_block();
  void next_verify();
  void next_trim();
  void complete();
  void fail(uint64_t lba);
  void small(Action action);
  void offer_sector();
  void native_max(bool extended);
  void initialize_parameters();
  void set_multiple();
  void set_features();
  void set_transfer_mode(uint8_t mode);
  void data_set_management();
  void identify();
  void smart();
  void smart_data();
  void smart_log();

  const std::shared_ptr<block::Backend> node_;
  const Options options_;

  // Settings of the guest.
  uint16_t cylinders_ = 0;
  uint8_t heads_ = 16, sectors_per_track_ = 63;
  uint8_t multiple_ = 0;     // sectors of a block of READ MULTIPLE; 0: not set
  uint8_t dma_mode_ = 0x22;  // as SET FEATURES has it: multiword 2
  bool write_cache_ = true, look_ahead_ = true, smart_ = true;
  bool standby_ = false;
  std::array<std::byte, kSector> scratch_{};  // of WRITE BUFFER

  // The command that is carried out.
  Action action_ = Action::kNone;
  uint64_t lba_ = 0;
  uint32_t left_ = 0;     // sectors; of kTrim: entries
  uint32_t block_ = 1;    // sectors between two interrupts; of kTrim: the entry that is next
  bool through_ = false;  // a flush comes before the end
  bool extended_ = false;
};

}  // namespace ostler::ide
