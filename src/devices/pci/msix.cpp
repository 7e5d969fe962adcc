#include "devices/pci/msix.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/log.h"

namespace ostler::pci {
namespace {

constexpr uint64_t kEntryBytes = 16;
constexpr uint16_t kMsixEnable = 0x8000;
constexpr uint16_t kMsixFunctionMask = 0x4000;
constexpr uint16_t kMsiEnable = 1;

uint64_t table_bytes(unsigned vectors) {
  return std::max<uint64_t>(2048, std::bit_ceil(vectors * kEntryBytes));
}

}  // namespace

Msix::Msix(std::string name, unsigned vectors)
    : name_(std::move(name)),
      table_bytes_(table_bytes(vectors)),
      region_(name_, *this, 2 * table_bytes_, 8),
      entries_(vectors),
      pending_(vectors, false) {
  ASSERT(vectors >= 1 && vectors <= 2048, "PCI 3.0 §6.8.2.3");
}

void Msix::add_capability(ConfigSpace& config, unsigned bar) {
  uint8_t body[10];
  store_le<uint16_t>(body, static_cast<uint16_t>(vectors() - 1));
  store_le<uint32_t>(body + 2, bar);
  store_le<uint32_t>(body + 6, static_cast<uint32_t>(table_bytes_) | bar);
  capability_ = config.add_capability(kCapabilityMsix, body);
  config.allow(static_cast<uint16_t>(capability_ + 2), 2, kMsixEnable | kMsixFunctionMask);
}

void Msix::update(const ConfigSpace& config, bus::MsiSink* sink) {
  const uint16_t control = config.get16(static_cast<uint16_t>(capability_ + 2));
  const std::lock_guard lock(mutex_);
  sink_ = sink;
  function_masked_ = (control & kMsixFunctionMask) != 0;
  enabled_.store((control & kMsixEnable) != 0, std::memory_order_release);
  deliver_pending_locked();
  update_sources_locked();
}

bool Msix::leaves_locked(unsigned index) const {
  return enabled() && !function_masked_ && sink_ != nullptr && !entries_[index].masked();
}

void Msix::deliver_pending_locked() {
  if (!enabled() || function_masked_ || sink_ == nullptr) return;
  for (unsigned i = 0; i < pending_.size(); ++i)
    if (pending_[i] && !entries_[i].masked()) deliver_locked(i);
}

void Msix::deliver_locked(unsigned index) {
  pending_[index] = false;
  sink_->send_msi(entries_[index].address(), entries_[index].words[2]);
}

void Msix::notify(unsigned index) {
  const std::lock_guard lock(mutex_);
  if (index >= entries_.size() || !enabled()) return;
  if (leaves_locked(index))
    deliver_locked(index);
  else
    pending_[index] = true;
}

// ---- eventfds ----
std::optional<unsigned> Msix::add_source(int fd, bus::MessageFds& kernel) {
  auto taken = kernel.take(fd);
  if (taken == nullptr) return std::nullopt;
  const std::lock_guard lock(mutex_);
  auto free = std::ranges::find_if(sources_, [](const Source& source) { return source.kernel == nullptr; });
  if (free == sources_.end()) free = sources_.insert(sources_.end(), Source{});
  message_fds_ = &kernel;
  *free = {.fd = fd, .kernel = std::move(taken), .vector = {}};
  return static_cast<unsigned>(free - sources_.begin());
}

void Msix::assign_sources(std::span<const Assignment> assignments) {
  const std::lock_guard lock(mutex_);
  for (const auto& [source, index] : assignments)
    sources_[source].vector = index && *index < entries_.size() ? index : std::nullopt;
  update_sources_locked();
}

void Msix::remove_source(unsigned source) {
  const std::lock_guard lock(mutex_);
  sources_[source] = {.fd = -1, .kernel = nullptr, .vector = {}};
}

void Msix::update_sources_locked() {
  std::vector<bus::MessageFds::Sending> sending;
  for (Source& source : sources_) {
    if (source.kernel == nullptr) continue;
    source.sends = source.vector && leaves_locked(*source.vector);
    if (!source.sends) {
      source.kernel->hold();
      continue;
    }
    const Entry& entry = entries_[*source.vector];
    sending.push_back({source.kernel.get(), entry.address(), entry.words[2]});
  }
  if (!sending.empty()) message_fds_->send(sending);
}

// Also what waits in an eventfd is pending.
bool Msix::pending_locked(unsigned index) const {
  if (pending_[index]) return true;
  return std::ranges::any_of(sources_, [&](const Source& source) {
    if (source.vector != index || source.sends) return false;
    pollfd waiting{.fd = source.fd, .events = POLLIN, .revents = 0};
    return ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLIN) != 0;
  });
}

void Msix::empty_sources_locked() {
  for (Source& source : sources_) {
    if (source.kernel == nullptr) continue;
    source.sends = false;
    source.kernel->hold();
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(source.fd, &count, sizeof count);
  }
}

void Msix::reset() {
  const std::lock_guard lock(mutex_);
  std::ranges::fill(entries_, Entry{});
  std::fill(pending_.begin(), pending_.end(), false);
  empty_sources_locked();
}

uint32_t Msix::read32_locked(uint64_t offset) const {
  if (offset < table_bytes_) {
    const uint64_t index = offset / kEntryBytes;
    return index < entries_.size() ? entries_[index].words[offset % kEntryBytes / 4] : 0;
  }
  uint32_t bits = 0;
  const uint64_t first = (offset - table_bytes_) * 8;
  for (uint64_t i = 0; i < 32 && first + i < pending_.size(); ++i)
    if (pending_locked(static_cast<unsigned>(first + i))) bits |= 1u << i;
  return bits;
}

uint64_t Msix::io_read(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  // Software uses aligned dwords and quadwords (§6.8.2); smaller reads get their bytes.
  const uint64_t base = align_down(offset, 4);
  uint64_t value = read32_locked(base);
  if (base + 4 < 2 * table_bytes_) value |= uint64_t{read32_locked(base + 4)} << 32;
  return (value >> (8 * (offset - base))) & size_mask(size);
}

void Msix::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (offset % 4 != 0 || size < 4) {
    log::guest_error("{}: MSI-X table write of {} bytes at {:#x}", name_, size, offset);
    return;
  }
  const std::lock_guard lock(mutex_);
  for (unsigned done = 0; done < size; done += 4) {
    const uint64_t at = offset + done;
    const uint64_t index = at / kEntryBytes;
    if (at >= table_bytes_ || index >= entries_.size()) continue;  // the pending bits are read-only
    const unsigned word = at % kEntryBytes / 4;
    // Reserved bits of the vector control stay 0.
    entries_[index].words[word] = static_cast<uint32_t>(value >> (8 * done)) & (word == 3 ? 1u : ~0u);
  }
  deliver_pending_locked();
  update_sources_locked();
}

void Msix::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("msix", 1);
  if (archive.loading()) empty_sources_locked();
  for (size_t i = 0; i < entries_.size(); ++i) {
    for (uint32_t& word : entries_[i].words) archive.field("word", word);
    bool pending = pending_locked(static_cast<unsigned>(i));
    archive.field("pending", pending);
    pending_[i] = pending;
  }
}

Msi::Msi(unsigned vectors) : vectors_(vectors) {
  ASSERT(std::has_single_bit(vectors) && vectors <= 32, "PCI 3.0 §6.8.1.3");
}

void Msi::add_capability(ConfigSpace& config) {
  const auto capable = static_cast<unsigned>(std::countr_zero(vectors_));
  uint8_t body[12] = {};
  store_le<uint16_t>(body, static_cast<uint16_t>(0x80 | capable << 1));  // 64-bit address
  capability_ = config.add_capability(kCapabilityMsi, body);
  config.allow(static_cast<uint16_t>(capability_ + 2), 2, kMsiEnable | 7u << 4);
  config.allow(static_cast<uint16_t>(capability_ + 4), 4, 0xfffffffc);
  config.allow(static_cast<uint16_t>(capability_ + 8), 4, 0xffffffff);
  config.allow(static_cast<uint16_t>(capability_ + 12), 2, 0xffff);
}

void Msi::update(const ConfigSpace& config, bus::MsiSink* sink) {
  const std::lock_guard lock(mutex_);
  const auto field = [&](unsigned at) { return static_cast<uint16_t>(capability_ + at); };
  const uint16_t control = config.get16(field(2));
  enabled_ = (control & kMsiEnable) != 0;
  enabled_vectors_ = std::min(vectors_, 1u << bits(control, 4, 3));
  address_ = uint64_t{config.get32(field(8))} << 32 | config.get32(field(4));
  data_ = config.get16(field(12));
  sink_ = sink;
}

bool Msi::enabled() const {
  const std::lock_guard lock(mutex_);
  return enabled_;
}

void Msi::notify(unsigned index) {
  const std::lock_guard lock(mutex_);
  if (!enabled_ || sink_ == nullptr) return;
  const unsigned vector = std::min(index, enabled_vectors_ - 1);
  sink_->send_msi(GuestPhys{address_}, (data_ & ~(enabled_vectors_ - 1)) | vector);
}

}  // namespace ostler::pci
