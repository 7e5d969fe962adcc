// Which commands there are, and those that move data.
#include "devices/scsi/disk.h"

namespace ostler::scsi {
namespace {

enum class Opcode : uint8_t {
  kTestUnitReady = 0x00,
  kRead6 = 0x08,
  kWrite6 = 0x0a,
  kModeSelect6 = 0x15,
  kModeSense6 = 0x1a,
  kStartStopUnit = 0x1b,
  kPreventAllow = 0x1e,
  kReadCapacity10 = 0x25,
  kRead10 = 0x28,
  kWrite10 = 0x2a,
  kVerify10 = 0x2f,
  kSynchronizeCache10 = 0x35,
  kWriteSame10 = 0x41,
  kUnmap = 0x42,
  kModeSelect10 = 0x55,
  kModeSense10 = 0x5a,
  kRead16 = 0x88,
  kWrite16 = 0x8a,
  kVerify16 = 0x8f,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kServiceActionIn16 = 0x9e,
  kRead12 = 0xa8,
  kWrite12 = 0xaa,
  kVerify12 = 0xaf,
};
constexpr uint8_t kReadCapacity16 = 0x10;

// SBC-3 §4.9: they fail while the unit is stopped.
bool needs_medium(Opcode opcode) {
  switch (opcode) {
    case Opcode::kModeSelect6:
    case Opcode::kModeSense6:
    case Opcode::kModeSelect10:
    case Opcode::kModeSense10:
    case Opcode::kStartStopUnit:
    case Opcode::kPreventAllow:
      return false;
    default:
      return true;
  }
}

}  // namespace

Disk::Disk(std::shared_ptr<block::Backend> node, const Options& options)
    : LogicalUnit(DeviceKind::kDisk, options), node_(std::move(node)), block_(options.logical_block_size) {
  writeback_ = initial_writeback();
  node_->on_resume([this] { resumed(); });
  node_->on_resize([this] {
    capacity_attention_ = true;
    tell(sense::kCapacityChanged);
  });
}

Disk::~Disk() {
  node_->on_resume({});
  node_->on_resize({});
}

bool Disk::initial_writeback() const {
  using config::OnOffAuto;
  if (options().write_cache != OnOffAuto::kAuto) return options().write_cache == OnOffAuto::kOn;
  return !node_->writes_through();
}

void Disk::reset() {
  reset_attention_ = true;
  capacity_attention_ = false;  // it would be told after the reset's, of which the size is asked again
  writeback_ = initial_writeback();
  stopped_ = false;
}

std::optional<Sense> Disk::take_attention(uint8_t) {
  if (reset_attention_.exchange(false)) return sense::kReset;
  if (capacity_attention_.exchange(false)) return sense::kCapacityChanged;
  return std::nullopt;
}

void Disk::perform(const Handle& command) {
  const Command& c = *command;
  const auto opcode = static_cast<Opcode>(c.byte(0));
  if (stopped_ && needs_medium(opcode)) return fail(command, sense::kStopped);
  const bool force_unit_access = (c.byte(1) & 8) != 0;
  switch (opcode) {
    case Opcode::kTestUnitReady:
    case Opcode::kPreventAllow:
      return good(command);
    case Opcode::kRead6:
    case Opcode::kWrite6: {
      const uint64_t first = c.field(1, 3) & 0x1fffff, count = c.byte(4) == 0 ? 256 : c.byte(4);
      return opcode == Opcode::kRead6 ? read(command, first, count) : write(command, first, count, false);
    }
    case Opcode::kRead10:
      return read(command, c.field(2, 4), c.field(7, 2));
    case Opcode::kRead12:
      return read(command, c.field(2, 4), c.field(6, 4));
    case Opcode::kRead16:
      return read(command, c.field(2, 8), c.field(10, 4));
    case Opcode::kWrite10:
      return write(command, c.field(2, 4), c.field(7, 2), force_unit_access);
    case Opcode::kWrite12:
      return write(command, c.field(2, 4), c.field(6, 4), force_unit_access);
    case Opcode::kWrite16:
      return write(command, c.field(2, 8), c.field(10, 4), force_unit_access);
    case Opcode::kVerify10:
      return verify(command, c.field(2, 4), c.field(7, 2));
    case Opcode::kVerify12:
      return verify(command, c.field(2, 4), c.field(6, 4));
    case Opcode::kVerify16:
      return verify(command, c.field(2, 8), c.field(10, 4));
    case Opcode::kSynchronizeCache10:
      return synchronize_cache(command, c.field(2, 4), c.field(7, 2));
    case Opcode::kSynchronizeCache16:
      return synchronize_cache(command, c.field(2, 8), c.field(10, 4));
    case Opcode::kWriteSame10:
      return write_same(command, c.field(2, 4), c.field(7, 2), false);
    case Opcode::kWriteSame16:
      return write_same(command, c.field(2, 8), c.field(10, 4), (c.byte(1) & 1) != 0);
    case Opcode::kUnmap:
      return unmap(command);
    case Opcode::kReadCapacity10:
      return read_capacity_10(command);
    case Opcode::kServiceActionIn16:
      if ((c.byte(1) & 0x1f) != kReadCapacity16) return fail(command, sense::kInvalidField);
      return read_capacity_16(command);
    case Opcode::kStartStopUnit:
      return start_stop(command);
    case Opcode::kModeSense6:
    case Opcode::kModeSense10:
      return mode_sense(command, opcode == Opcode::kModeSense10);
    case Opcode::kModeSelect6:
    case Opcode::kModeSelect10:
      return mode_select(command, opcode == Opcode::kModeSelect10);
  }
  fail(command, sense::kInvalidOpcode);
}

bool Disk::in_range(const Handle& command, uint64_t first, uint64_t count) {
  if (first <= blocks() && count <= blocks() - first) return true;
  fail(command, sense::kOutOfRange);
  return false;
}

bool Disk::writable(const Handle& command) {
  if (!node_->read_only()) return true;
  fail(command, sense::kWriteProtected);
  return false;
}

// Bits of protection information are in the same place of all commands but those of 6 bytes.
void Disk::read(const Handle& command, uint64_t first, uint64_t count) {
  if (command->byte(0) >= 0x20 && (command->byte(1) >> 5) != 0) return fail(command, sense::kInvalidField);
  if (!in_range(command, first, count)) return;
  const uint64_t bytes = count * block_;
  command->overrun = bytes > command->in_bytes;
  if (bytes == 0 || command->overrun) return good(command);
  command->transferred = bytes;
  node_->read(first * block_, first_bytes(command->in, bytes),
              [this, command](int error) { ended(command, true, error); });
}

void Disk::write(const Handle& command, uint64_t first, uint64_t count, bool force_unit_access) {
  if (command->byte(0) >= 0x20 && (command->byte(1) >> 5) != 0) return fail(command, sense::kInvalidField);
  if (!writable(command) || !in_range(command, first, count)) return;
  const uint64_t bytes = count * block_;
  command->overrun = bytes > command->out_bytes;
  if (bytes == 0 || command->overrun) return good(command);
  command->transferred = bytes;
  const bool flush = force_unit_access || !writeback_;
  node_->write(first * block_, first_bytes(command->out, bytes),
               [this, command, flush](int error) { written(command, error, flush); });
}

void Disk::written(const Handle& command, int error, bool flush) {
  if (error != 0 || !flush) return ended(command, false, error);
  node_->flush([this, command](int flush_error) { ended(command, false, flush_error); });
}

// Nothing is compared: the host has checks of its own.
void Disk::verify(const Handle& command, uint64_t first, uint64_t count) {
  if ((command->byte(1) & 0xe6) != 0) return fail(command, sense::kInvalidField);
  if (in_range(command, first, count)) good(command);
}

void Disk::flush(const Handle& command) {
  node_->flush([this, command](int error) { ended(command, false, error); });
}

void Disk::synchronize_cache(const Handle& command, uint64_t first, uint64_t count) {
  if (in_range(command, first, count)) flush(command);
}

// SBC-3 §5.28: START, and LOEJ, which does nothing without a tray.
void Disk::start_stop(const Handle& command) {
  if ((command->byte(4) & 0xf0) != 0) return good(command);  // power conditions
  stopped_ = (command->byte(4) & 1) == 0;
  if (stopped_ && !node_->read_only()) return flush(command);
  good(command);
}

void Disk::ended(const Handle& command, bool is_read, int error) {
  LogicalUnit::ended(*node_, command, is_read, error);
}

void Disk::state(state::Archive& archive) {
  archive.section("scsi disk", 1);
  uint64_t size = node_->size();
  archive.field("size", size);
  archive.check(size == node_->size(), "size of the disk");
  for (const auto& [name, place] : {std::pair{"reset attention", &reset_attention_},
                                    std::pair{"capacity attention", &capacity_attention_},
                                    std::pair{"writeback", &writeback_}, std::pair{"stopped", &stopped_}}) {
    bool value = *place;
    archive.field(name, value);
    *place = value;
  }
}

}  // namespace ostler::scsi
