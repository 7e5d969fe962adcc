// The interrupt path of the local APIC: arrival, priority, acknowledgement, end of interrupt (SDM 3A §11.8).
#include "devices/chipset/local_apic.h"

#include <bit>

#include "devices/chipset/apic_bus.h"
#include "devices/chipset/local_apic_registers.h"

namespace ostler::chipset {

using namespace apic;

int VectorSet::highest() const {
  for (int i = 7; i >= 0; --i)
    if (const uint32_t word = words_[static_cast<size_t>(i)].load(); word != 0)
      return i * 32 + 31 - std::countl_zero(word);
  return -1;
}

void VectorSet::reset() {
  for (auto& word : words_) word.store(0);
}

void VectorSet::state(state::Archive& archive, std::string_view name) {
  for (auto& atomic : words_) {
    uint32_t word = atomic.load();
    archive.field(name, word);
    atomic.store(word);
  }
}

LocalApic::LocalApic(const Options& options, ApicBus& bus, event::Loop& loop, const TscClock& tsc)
    : options_(options), bus_(bus), loop_(loop), tsc_(tsc), timer_(loop, [this] { timer_expired(); }) {
  bus_.add(*this);
  reset();
}

LocalApic::~LocalApic() {
  bus_.remove(*this);
}

bool LocalApic::in_kernel() const {
  return bus_.in_kernel();
}
bool LocalApic::hardware_enabled() const {
  return (base_.load() & kBaseEnable) != 0;
}
bool LocalApic::x2apic() const {
  return (base_.load() & kBaseExtended) != 0;
}
bool LocalApic::software_enabled() const {
  return (spurious_.load() & kSpuriousEnable) != 0;
}
bool LocalApic::accepts_fixed() const {
  return hardware_enabled() && software_enabled();
}

void LocalApic::reset() {
  base_.store(kDefaultBase | kBaseEnable | (options_.bootstrap ? kBaseBootstrap : 0));
  registers_reset();
  if (options_.bootstrap && options_.virtual_wire) {
    const std::lock_guard lock(mutex_);
    lvt_[kLvtLint0] = static_cast<uint32_t>(DeliveryMode::kExtInt) << 8;
    lint0_entry_.store(lvt_[kLvtLint0]);
  }
}

void LocalApic::init_reset() {
  // The id and IA32_APIC_BASE stay (SDM 3A §11.4.7.3).
  registers_reset();
}

void LocalApic::registers_reset() {
  {
    const std::lock_guard lock(mutex_);
    lvt_.fill(kLvtMasked);
    lint0_entry_.store(kLvtMasked);
    error_status_ = error_pending_ = 0;
    divide_ = 0;
    initial_count_ = 0;
    stop_timer_locked();
  }
  eoi_offered_.store(false);
  irr_.reset();
  tmr_.reset();
  isr_.reset();
  ext_int_latched_.store(false);
  spurious_.store(0xff);
  logical_id_.store(x2apic() ? x2_logical_id(options_.id) : 0);
  destination_format_.store(0xffffffff);
  command_ = 0;
  tpr_.store(0);
  update_priority();
}

bool LocalApic::matches_logical(uint32_t destination) const {
  const uint32_t mine = logical_id_.load(std::memory_order_relaxed);
  if (x2apic())  // §11.12.10.2: cluster in 31:16, one bit for each member
    return (destination >> 16) == (mine >> 16) && (destination & mine & 0xffff) != 0;
  if (destination > 0xff) return false;
  const uint32_t id = mine >> 24;
  if ((destination_format_.load(std::memory_order_relaxed) >> 28) == 0xf)
    return (destination & id) != 0;                                         // flat
  return (destination >> 4) == (id >> 4) && (destination & id & 0xf) != 0;  // cluster
}

void LocalApic::receive(const ApicMessage& message) {
  if (!hardware_enabled()) return;
  switch (message.mode) {
    case DeliveryMode::kFixed:
    case DeliveryMode::kLowestPriority:
      accept(message.vector, message.level);
      return;
    case DeliveryMode::kSmi:
      if (cpu_ != nullptr) cpu_->smi();
      return;
    case DeliveryMode::kNmi:
      if (cpu_ != nullptr) cpu_->nmi();
      return;
    case DeliveryMode::kInit:
      if (cpu_ != nullptr) cpu_->init();
      return;
    case DeliveryMode::kSipi:
      if (cpu_ != nullptr) cpu_->sipi(message.vector);
      return;
    case DeliveryMode::kExtInt:
      ext_int_latched_.store(true);
      if (cpu_ != nullptr) cpu_->interrupt_changed();
      return;
  }
  // The reserved mode: nobody answers.
}

void LocalApic::accept(uint8_t vector, bool level) {
  if (!software_enabled()) return;
  if (vector < 16) {
    error(kErrorReceiveIllegal);
    return;
  }
  raise(vector, level);
}

// Sets IRR, then looks at the priority; the vCPU stores its priority, then looks at IRR. Both in the one
// order of seq_cst, so at least one of them sees the other's store and nothing is forgotten.
void LocalApic::raise(uint8_t vector, bool level) {
  if (level)
    tmr_.set(vector);
  else if (tmr_.test(vector))
    tmr_.clear(vector);
  if (!irr_.set(vector)) return;  // merged with one that is still to be taken
  if ((vector >> 4) <= (ppr_.load() >> 4) && !eoi_offered_.load()) return;
  attention_.store(true);
  if (cpu_ != nullptr) cpu_->interrupt_changed();
}

void LocalApic::update_priority() {
  const int in_service = isr_.highest();
  const uint8_t tpr = tpr_.load();
  const auto service_class = static_cast<uint8_t>(in_service < 0 ? 0 : in_service & 0xf0);
  ppr_.store((tpr & 0xf0) >= service_class ? tpr : service_class);  // §11.8.3.1
  attention_.store(false);
  if (!deliverable()) return;
  attention_.store(true);
  if (cpu_ != nullptr) cpu_->interrupt_changed();
}

bool LocalApic::deliverable() const {
  const int vector = irr_.highest();
  return vector >= 0 && (vector >> 4) > (ppr_.load() >> 4);
}

bool LocalApic::ext_int_deliverable() const {
  if (ext_int_latched_.load(std::memory_order_relaxed)) return true;
  if (!lint0_.load(std::memory_order_relaxed)) return false;
  if (!hardware_enabled()) return true;  // LINT0 is the processor's INTR pin then
  const uint32_t entry = lint0_entry_.load(std::memory_order_relaxed);
  return (entry & kLvtMasked) == 0 && lvt_mode(entry) == DeliveryMode::kExtInt;
}

bool LocalApic::pending() const {
  // The kernel knows all but the 8259, whose INTR is ours to bring.
  if (in_kernel()) return lint0_.load(std::memory_order_relaxed);
  if (attention_.load(std::memory_order_acquire) && (deliverable() || eoi_offered_.load())) return true;
  return ext_int_deliverable();
}

std::optional<uint8_t> LocalApic::acknowledge() {
  if (in_kernel()) return bus_.acknowledge_ext_int();
  settle_eoi();
  if (ext_int_deliverable()) {
    ext_int_latched_.store(false);
    return bus_.acknowledge_ext_int();
  }
  const int highest = irr_.highest();
  if (highest < 0 || (highest >> 4) <= (ppr_.load() >> 4)) {
    update_priority();
    return std::nullopt;
  }
  const auto vector = static_cast<uint8_t>(highest);
  irr_.clear(vector);
  isr_.set(vector);
  update_priority();
  offer_eoi(vector);
  return vector;
}

void LocalApic::end_of_interrupt() {
  const int highest = isr_.highest();
  if (highest < 0) return;
  const auto vector = static_cast<uint8_t>(highest);
  isr_.clear(vector);
  const bool level = tmr_.test(vector);
  update_priority();
  if (level && (spurious_.load() & kSpuriousNoEoiBroadcast) == 0) bus_.broadcast_eoi(vector);
}

void LocalApic::set_tpr(uint8_t value) {
  tpr_.store(value);
  update_priority();
}

void LocalApic::set_cr8(uint8_t value) {
  settle_eoi();
  set_tpr(static_cast<uint8_t>((value & 15) << 4));
}

void LocalApic::set_lint0(bool level) {
  const bool before = lint0_.exchange(level);
  if (!level || before) return;
  if (in_kernel() || ext_int_deliverable()) {
    if (cpu_ != nullptr) cpu_->interrupt_changed();
  } else {
    deliver_local(kLvtLint0);
  }
}

void LocalApic::set_lint1(bool level) {
  const bool before = lint1_.exchange(level);
  if (!level || before) return;
  if (hardware_enabled() && !in_kernel())
    deliver_local(kLvtLint1);
  else if (cpu_ != nullptr)
    cpu_->nmi();  // LINT1 is the processor's NMI pin then
}

void LocalApic::deliver_local(Lvt entry) {
  uint32_t value = 0;
  {
    const std::lock_guard lock(mutex_);
    value = lvt_[entry];
  }
  if (!hardware_enabled() || (value & kLvtMasked) != 0) return;
  switch (lvt_mode(value)) {
    case DeliveryMode::kFixed:
      accept(static_cast<uint8_t>(value), false);
      return;
    case DeliveryMode::kSmi:
      if (cpu_ != nullptr) cpu_->smi();
      return;
    case DeliveryMode::kNmi:
      if (cpu_ != nullptr) cpu_->nmi();
      return;
    case DeliveryMode::kInit:
      if (cpu_ != nullptr) cpu_->init();
      return;
    default:
      return;  // ExtINT is level-driven, see ext_int_deliverable()
  }
}

void LocalApic::error(uint32_t bit) {
  uint32_t entry = 0;
  {
    const std::lock_guard lock(mutex_);
    error_pending_ |= bit;
    entry = lvt_[kLvtError];
  }
  // An error vector that is itself illegal would come back here: it is recorded once and not raised.
  if ((entry & kLvtMasked) == 0 && (entry & 0xff) >= 16 && software_enabled())
    raise(static_cast<uint8_t>(entry), false);
}

void LocalApic::state(state::Archive& archive) {
  if (archive.loading())
    eoi_offered_.store(false);
  else
    settle_eoi();
  archive.section("local-apic", 1);
  irr_.state(archive, "irr");
  tmr_.state(archive, "tmr");
  isr_.state(archive, "isr");
  const auto atomic = [&](std::string_view what, auto& where) {
    auto value = where.load();
    archive.field(what, value);
    where.store(value);
  };
  atomic("lint0", lint0_);
  atomic("lint1", lint1_);
  atomic("ext_int", ext_int_latched_);
  atomic("base", base_);
  atomic("spurious", spurious_);
  atomic("ldr", logical_id_);
  atomic("dfr", destination_format_);
  atomic("tpr", tpr_);
  archive.field("icr", command_);
  {
    const std::lock_guard lock(mutex_);
    archive.field("lvt", lvt_);
    archive.field("esr", error_status_);
    archive.field("esr_pending", error_pending_);
    archive.field("initial_count", initial_count_);
    archive.field("divide", divide_);
    archive.field("expires", expires_);
    archive.field("tsc_deadline", tsc_deadline_);
    archive.check((base_.load() & (kBaseEnable | kBaseExtended)) != kBaseExtended, "base");
    archive.check(divide_ <= 0xb && (divide_ & 4) == 0, "divide");
    archive.check(expires_ >= -1 && expires_ < INT64_MAX / 2, "expires");
    if (archive.loading() && !archive.failed()) {
      lint0_entry_.store(lvt_[kLvtLint0]);
      timer_.cancel();
      if (expires_ >= 0 && !in_kernel()) timer_.set(expires_);
    }
  }
  if (archive.loading() && !archive.failed() && !in_kernel()) update_priority();
}

}  // namespace ostler::chipset
