#include "devices/ide/channel.h"

#include <fmt/format.h>

#include <utility>

namespace ostler::ide {
namespace {

// What nobody drives reads as, DD7 pulled down (ATA/ATAPI-7 volume 2, §A.2).
constexpr uint8_t kNobody = 0x7f;
constexpr uint64_t kNotDecoded = ~uint64_t{0};
// Pieces of a transfer that one access of the guest carries out at once; others take over then.
constexpr unsigned kMostAtOnce = 8;

}  // namespace

// Whoever comes second, the submitter or the completion, goes on with the drive.
struct Channel::Flight {
  Flight(Drive& of, HostRequest asked, const BusMaster::Position& before)
      : drive(of), request(std::move(asked)), node(of.node()), position(before) {}
  Drive& drive;
  HostRequest request;
  std::shared_ptr<block::Backend> node;
  const BusMaster::Position position;  // before the request took its part of the table
  std::atomic<bool> met{false};
  int error = 0;
};

Channel::Channel(memory::AddressSpace& memory, bus::IrqLine irq)
    : irq_(irq),
      master_(memory),
      command_ports_(*this),
      control_port_("ide control", *this, &Channel::read_control, &Channel::write_control) {}

// Not the device register: it decides whose interrupt is up.
std::span<const bus::LateRange> Channel::CommandPorts::late_writes() const {
  static constexpr bus::LateRange kLate[] = {{.offset = 1, .size = 5}};
  return kLate;
}

Channel::~Channel() {
  for (const auto& drive : drives_)
    if (drive != nullptr && drive->node() != nullptr) drive->node()->on_resume({});
  quiesce();
}

Result<void> Channel::attach(unsigned unit, std::unique_ptr<Drive> drive) {
  if (drives_[unit] != nullptr)
    return Error(ErrorKind::kBusy, fmt::format("unit {} of this IDE bus is taken", unit));
  drive->reset(true);
  if (const auto node = drive->node()) node->on_resume([this] { repeat_kept(); });
  drives_[unit] = std::move(drive);
  return {};
}

void Channel::allow(bool ports, bool memory) {
  ports_allowed_.store(ports, std::memory_order_relaxed);
  memory_allowed_.store(memory, std::memory_order_relaxed);
}

uint64_t Channel::read_command_block(uint64_t offset, unsigned size) {
  if (!ports_allowed_.load(std::memory_order_relaxed)) return kNotDecoded >> (64 - 8 * size);
  Lock lock(mutex_);
  uint64_t value = 0;
  if (offset == 0) {
    if (Drive* const drive = selected_locked()) value = drive->read_data(size);
  } else {
    value = chipset::read_bytes(offset, size,
                                [&](uint64_t at) { return read_locked(static_cast<Register>(at)); });
  }
  go_on(lock);
  return value;
}

void Channel::write_command_block(uint64_t offset, unsigned size, uint64_t value) {
  if (!ports_allowed_.load(std::memory_order_relaxed)) return;
  Lock lock(mutex_);
  if (offset == 0) {
    if (Drive* const drive = selected_locked()) drive->write_data(size, value);
  } else {
    chipset::write_bytes(offset, size, value,
                         [&](uint64_t at, uint8_t byte) { write_locked(static_cast<Register>(at), byte); });
  }
  go_on(lock);
}

uint8_t Channel::status_locked() const {
  const Drive* const drive = selected_locked();
  if (drive == nullptr) return drives_[0] == nullptr ? kNobody : 0;
  return (control_ & control::kSoftwareReset) != 0 ? status::kBusy : drive->status();
}

uint8_t Channel::read_locked(Register index) {
  Drive* const drive = selected_locked();
  // Drive 0 answers for an absent drive 1, with zeros.
  if (drive == nullptr) return drives_[0] == nullptr ? kNobody : 0;
  if (index == Register::kCommand) {
    drive->acknowledge();
    return status_locked();
  }
  const uint8_t value = drive->read_register(index, (control_ & control::kHighOrder) != 0);
  if (index != Register::kDevice) return value;
  return static_cast<uint8_t>((value & ~device::kSecond) | (selected_ != 0 ? device::kSecond : 0) | 0xa0);
}

void Channel::write_locked(Register index, uint8_t value) {
  control_ &= static_cast<uint8_t>(~control::kHighOrder);
  if ((control_ & control::kSoftwareReset) != 0) return;
  if (index != Register::kCommand) {
    if (index == Register::kDevice) selected_ = (value & device::kSecond) != 0 ? 1 : 0;
    for (const auto& drive : drives_)
      if (drive != nullptr) drive->write_register(index, value);
    return;
  }
  if (value == static_cast<uint8_t>(Command::kDiagnostic)) {
    for (const auto& drive : drives_)
      if (drive != nullptr) drive->diagnose();
    selected_ = 0;
    if (drives_[0] != nullptr) drives_[0]->raise();
    return;
  }
  if (Drive* const drive = selected_locked()) drive->command(value);
}

uint64_t Channel::read_control(uint64_t offset, unsigned size) {
  if (!ports_allowed_.load(std::memory_order_relaxed)) return kNotDecoded >> (64 - 8 * size);
  const Lock lock(mutex_);
  return offset == 0 ? status_locked() : 0;
}

void Channel::write_control(uint64_t offset, unsigned, uint64_t value) {
  if (!ports_allowed_.load(std::memory_order_relaxed) || offset != 0) return;
  Lock lock(mutex_);
  const bool resets = (value & control::kSoftwareReset) != 0 && (control_ & control::kSoftwareReset) == 0;
  control_ =
      static_cast<uint8_t>(value) & (control::kNoInterrupt | control::kSoftwareReset | control::kHighOrder);
  if (resets) {
    selected_ = 0;
    for (const auto& drive : drives_)
      if (drive != nullptr) drive->reset(false);
  }
  go_on(lock);
}

uint8_t Channel::read_bus_master(unsigned port) {
  const Lock lock(mutex_);
  return master_.read(port);
}

void Channel::write_bus_master(unsigned port, uint8_t value) {
  Lock lock(mutex_);
  master_.write(port, value);
  go_on(lock);
}

void Channel::go_on(Lock& lock) {
  for (const auto& drive : drives_)
    if (drive != nullptr) run(*drive, lock);
  update_interrupt_locked();
}

void Channel::run(Drive& drive, Lock& lock) {
  for (unsigned times = 0;; ++times) {
    const BusMaster::Position position = master_.position();
    move_dma_locked(drive);
    auto request = drive.take_request();
    if (!request) return;
    auto flight = std::make_shared<Flight>(drive, *std::move(request), position);
    ++in_flight_;
    lock.unlock();
    if (times < kMostAtOnce)
      submit(flight);
    else
      flight->node->defer([this, flight] { submit(flight); });
    const bool completed = flight->met.exchange(true);
    lock.lock();
    if (!completed) return;
    finish_locked(*flight);
  }
}

void Channel::move_dma_locked(Drive& drive) {
  if (!drive.wants_dma() || !master_.active() || !memory_allowed_.load(std::memory_order_relaxed)) return;
  const bool to_guest = drive.dma_to_guest();
  if (to_guest != master_.to_guest()) return;
  if (drive.dma_on_disk()) {
    memory::Mapping mapping;
    if (master_.map(drive.dma_left(), to_guest, mapping) == BusMaster::Walk::kOk)
      drive.dma_disk(std::move(mapping));
    return;
  }
  uint64_t moved = 0;
  const auto walk = master_.copy(drive.dma_buffer(), to_guest, moved);
  if (walk == BusMaster::Walk::kOk) master_.drive_finished();
  if (moved != 0) drive.dma_advance(moved);
}

void Channel::submit(const std::shared_ptr<Flight>& flight) {
  const HostRequest& request = flight->request;
  auto done = [this, flight](int error) { this->done(flight, error); };
  auto pieces = request.mapping.spans;
  if (request.buffer != nullptr)
    pieces.push_back({request.buffer->data() + request.buffer_at, request.bytes});
  switch (request.kind) {
    case HostRequest::Kind::kRead:
      return flight->node->read(request.offset, std::move(pieces), std::move(done));
    case HostRequest::Kind::kWrite:
      return flight->node->write(request.offset, std::move(pieces), std::move(done));
    case HostRequest::Kind::kFlush:
      return flight->node->flush(std::move(done));
    case HostRequest::Kind::kDiscard:
      return flight->node->discard(request.offset, request.bytes, std::move(done));
  }
}

void Channel::done(const std::shared_ptr<Flight>& flight, int error) {
  flight->error = error;
  if (!flight->met.exchange(true)) return;
  Lock lock(mutex_);
  finish_locked(*flight);
  // What comes next is counted before the channel looks idle.
  ++in_flight_;
  go_on(lock);
  --in_flight_;
  idle_.notify_all();
}

// What the user wants for a request that failed. True: the drive keeps it.
bool Channel::keep_locked(Flight& flight) {
  using block::Verdict;
  const bool reads = flight.request.kind == HostRequest::Kind::kRead;
  const Verdict verdict = flight.node->judge(reads, flight.error);
  if (verdict == Verdict::kIgnore) flight.error = 0;
  if (verdict != Verdict::kKeep) return false;
  const bool dma = flight.drive.in_dma();
  if (!flight.drive.keep_request()) return false;
  if (dma) master_.go_back(flight.position);
  // After it is kept: the guest may go on at once.
  flight.node->pause_guest(flight.error);
  return true;
}

// On the machine's thread.
void Channel::repeat_kept() {
  Lock lock(mutex_);
  for (const auto& drive : drives_)
    if (drive != nullptr) drive->repeat_kept();
  ++in_flight_;
  go_on(lock);
  --in_flight_;
  idle_.notify_all();
}

void Channel::finish_locked(Flight& flight) {
  --in_flight_;
  if (flight.error != 0 && keep_locked(flight)) {
    idle_.notify_all();
    return;
  }
  HostRequest& request = flight.request;
  if (request.kind == HostRequest::Kind::kRead && flight.error == 0 && !request.mapping.spans.empty())
    master_.written(request.mapping);
  const bool was_dma = flight.drive.in_dma();
  flight.drive.request_done(flight.error);
  if (was_dma && !flight.drive.in_dma()) master_.drive_finished();
  idle_.notify_all();
}

void Channel::update_interrupt_locked() {
  const Drive* const drive = selected_locked();
  const bool level = drive != nullptr && drive->interrupt() && (control_ & control::kNoInterrupt) == 0;
  if (level == level_) return;
  level_ = level;
  if (level) master_.interrupt();
  irq_.set(level);
}

void Channel::quiesce() {
  Lock lock(mutex_);
  idle_.wait(lock, [this] { return in_flight_ == 0; });
}

void Channel::reset() {
  quiesce();
  const Lock lock(mutex_);
  master_.reset();
  for (const auto& drive : drives_)
    if (drive != nullptr) drive->reset(true);
  selected_ = control_ = 0;
  update_interrupt_locked();
}

void Channel::state(state::Archive& archive) {
  const Lock lock(mutex_);
  archive.section("ide channel", 1);
  archive.field("selected", selected_);
  archive.check(selected_ < kUnits, "selected");
  if (archive.failed()) selected_ = 0;
  archive.field("control", control_);
  archive.field("level", level_);  // the interrupt controllers' own state agrees
  master_.state(archive);
  for (const auto& drive : drives_) {
    bool present = drive != nullptr;
    archive.field("present", present);
    archive.check(present == (drive != nullptr), "drives");
    if (drive != nullptr) drive->state(archive);
  }
}

}  // namespace ostler::ide
