#include "devices/scsi/cd.h"

namespace ostler::scsi {

Cd::Cd(std::shared_ptr<block::Backend> medium, const Options& options)
    : LogicalUnit(DeviceKind::kCd, options),
      medium_(std::move(medium)),
      unit_(CdUnit::Bus::kScsi, medium_, options.product, options.version) {
  medium_->on_resume([this] { resumed(); });
}

Cd::~Cd() {
  medium_->on_resume({});
}

std::optional<Sense> Cd::take_attention(uint8_t opcode) {
  const std::lock_guard lock(mutex_);
  return unit_.take_attention(opcode);
}

void Cd::perform(const std::shared_ptr<Command>& command) {
  using Kind = CdUnit::Outcome::Kind;
  CdUnit::Outcome outcome;
  uint64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    outcome = unit_.execute(command->cdb);
    bytes = uint64_t{outcome.count} * kCdBlock;
    command->overrun = outcome.kind == Kind::kRead && bytes > command->in_bytes;
    // Before the tray can open: the medium stays until the read has ended.
    if (outcome.kind == Kind::kRead && !command->overrun) ++reads_;
  }
  switch (outcome.kind) {
    case Kind::kGood:
      return good(command);
    case Kind::kSense:
      return fail(command, outcome.sense);
    case Kind::kReply:
      return reply(command, outcome.reply, outcome.reply.size());
    case Kind::kRead:
      if (command->overrun) return good(command);
      return read(command, uint64_t{outcome.first} * kCdBlock, bytes);
  }
}

void Cd::read(const std::shared_ptr<Command>& command, uint64_t offset, uint64_t bytes) {
  command->transferred = bytes;
  medium_->read(offset, first_bytes(command->in, bytes), [this, command](int error) {
    {
      const std::lock_guard lock(mutex_);
      --reads_;
      idle_.notify_all();
    }
    ended(*medium_, command, true, error);
  });
}

bool Cd::open_tray(bool force) {
  bool opened = false;
  {
    std::unique_lock lock(mutex_);
    if (unit_.tray_open()) return true;
    opened = unit_.open_tray(force);
    if (opened) idle_.wait(lock, [this] { return reads_ == 0; });
  }
  tell(sense::kMediumChanged);
  return opened;
}

void Cd::close_tray() {
  {
    const std::lock_guard lock(mutex_);
    unit_.close_tray();
  }
  tell(sense::kMediumChanged);
}

bool Cd::tray_open() const {
  const std::lock_guard lock(mutex_);
  return unit_.tray_open();
}

bool Cd::locked() const {
  const std::lock_guard lock(mutex_);
  return unit_.locked();
}

void Cd::reset() {
  const std::lock_guard lock(mutex_);
  unit_.reset();
}

void Cd::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("scsi cd", 1);
  uint64_t size = medium_->size();
  archive.field("size", size);
  archive.check(size == medium_->size(), "size of the medium");
  unit_.state(archive);
}

}  // namespace ostler::scsi
