// A CD drive as a unit of a SCSI controller: CdUnit's commands over a block::Backend.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "block/backend.h"
#include "devices/scsi/cd_unit.h"
#include "devices/scsi/logical_unit.h"

namespace ostler::scsi {

class Cd final : public LogicalUnit {
 public:
  Cd(std::shared_ptr<block::Backend> medium, const Options& options);
  ~Cd() override;

  // As CdUnit's; the machine's thread. Once the tray is open no read is under way.
  bool open_tray(bool force);
  void close_tray();
  bool tray_open() const;
  bool locked() const;

  void reset() override;
  void pause_guest(int error) override { medium_->pause_guest(error); }
  void state(state::Archive& archive) override;

 private:
  std::optional<Sense> take_attention(uint8_t opcode) override;
  void perform(const std::shared_ptr<Command>& command) override;
  std::optional<Bytes> product_data(uint8_t) const override { return std::nullopt; }
  void read(const std::shared_ptr<Command>& command, uint64_t offset, uint64_t bytes);

  const std::shared_ptr<block::Backend> medium_;
  mutable std::mutex mutex_;
  CdUnit unit_;
  unsigned reads_ = 0;  // with the host
  std::condition_variable idle_;
};

}  // namespace ostler::scsi
