#include "devices/virtio/balloon/device.h"

#include <algorithm>

#include "base/log.h"
#include "devices/virtio/config_field.h"

namespace ostler::virtio::balloon {
namespace {

constexpr uint16_t kQueueSize = 128;
constexpr uint64_t kPage = 4096;
// In one buffer; drivers send 256 as a rule.
constexpr uint64_t kMostFrames = 4096;
constexpr uint32_t kStop = 0, kDone = 1, kFirstRound = 2;

// §5.5.4
struct Config {
  uint32_t num_pages;
  uint32_t actual;
  uint32_t free_page_hint_cmd_id;
  uint32_t poison_val;
};

struct [[gnu::packed]] Statistic {
  uint16_t tag;
  uint64_t value;
};
static_assert(sizeof(Statistic) == 10);

std::vector<uint16_t> queue_sizes(const Options& options) {
  const size_t count = 3u + (options.free_page_hint ? 1 : 0) + (options.free_page_reporting ? 1 : 0);
  return std::vector<uint16_t>(count, kQueueSize);
}

}  // namespace

BalloonDevice::BalloonDevice(memory::AddressSpace& memory, event::Loop& loop, uint64_t guest_bytes,
                             const Options& options)
    : Device(memory, options.id.empty() ? "virtio-balloon" : options.id, queue_sizes(options),
             options.withheld_features()),
      loop_(loop),
      guest_pages_(guest_bytes / kPage),
      options_(options),
      ram_(memory),
      timer_(loop, [this] { poll(); }) {}

BalloonDevice::~BalloonDevice() {
  reset();
}

uint64_t BalloonDevice::device_features() const {
  uint64_t bits = feature(VIRTIO_BALLOON_F_STATS_VQ);
  if (options_.deflate_on_oom) bits |= feature(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
  if (options_.free_page_hint) bits |= feature(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
  if (options_.page_poison) bits |= feature(VIRTIO_BALLOON_F_PAGE_POISON);
  if (options_.free_page_reporting) bits |= feature(VIRTIO_BALLOON_F_PAGE_REPORTING);
  return bits;
}

// A queue whose feature was not negotiated is not counted.
BalloonDevice::Role BalloonDevice::role(unsigned queue) const {
  std::array<Role, 5> roles = {Role::kInflate, Role::kDeflate};
  size_t count = 2;
  if (has_feature(VIRTIO_BALLOON_F_STATS_VQ)) roles[count++] = Role::kStatistics;
  if (has_feature(VIRTIO_BALLOON_F_FREE_PAGE_HINT)) roles[count++] = Role::kHints;
  if (has_feature(VIRTIO_BALLOON_F_PAGE_REPORTING)) roles[count++] = Role::kReports;
  return queue < count ? roles[queue] : Role::kNone;
}

void BalloonDevice::config_locked(std::vector<std::byte>& bytes) {
  const Config config = {wanted_pages_, actual_pages_, hint_command_, poison_};
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

void BalloonDevice::config_written_locked(uint64_t offset, std::span<const std::byte> from) {
  if (write_config_field(offset, from, offsetof(Config, actual), actual_pages_) ||
      write_config_field(offset, from, offsetof(Config, poison_val), poison_))
    return;
  log::guest_error("{}: configuration written at {:#x}", name(), offset);
}

void BalloonDevice::set_target(uint64_t bytes) {
  const Lock lock(mutex_);
  const uint64_t kept = std::min(bytes / kPage, guest_pages_);
  wanted_pages_ = static_cast<uint32_t>(std::min<uint64_t>(guest_pages_ - kept, UINT32_MAX));
  config_changed_locked();
}

uint64_t BalloonDevice::actual() {
  const Lock lock(mutex_);
  return (guest_pages_ - std::min<uint64_t>(actual_pages_, guest_pages_)) * kPage;
}

Statistics BalloonDevice::statistics() {
  const Lock lock(mutex_);
  return statistics_;
}

bool BalloonDevice::reclaim_free_pages() {
  const Lock lock(mutex_);
  if (!running() || !has_feature(VIRTIO_BALLOON_F_FREE_PAGE_HINT)) return false;
  last_round_ = std::max(last_round_ + 1, kFirstRound);
  hint_command_ = last_round_;
  hinting_ = false;
  config_changed_locked();
  return true;
}

void BalloonDevice::started_locked() {
  arm_poll();
}

void BalloonDevice::stopped_locked() {
  actual_pages_ = 0;
  poison_ = 0;
  hint_command_ = kStop;
  hinting_ = false;
  statistics_ = {};
}

void BalloonDevice::process(unsigned index, Lock&) {
  Queue& queue = *this->queue(index);
  switch (role(index)) {
    case Role::kInflate:
      return inflate_locked(queue);
    case Role::kDeflate:
      return deflate_locked(queue);
    case Role::kStatistics:
      return read_statistics_locked(queue);
    case Role::kHints:
      return hints_locked(queue);
    case Role::kReports:
      return reports_locked(queue);
    case Role::kNone:
      return;
  }
}

void BalloonDevice::discard_locked(GuestPhys address, uint64_t length) {
  while (length != 0) {
    const memory::FlatRange* const range = ram_.find(address);
    if (range == nullptr || !range->is_ram() || range->read_only) {
      log::guest_error("{}: no RAM at {:#x}", name(), address.value);
      return;
    }
    const uint64_t part = std::min(length, range->last - address + 1);
    const uint64_t offset = range->offset_of(address);
    if (range->ram->memory().discard(offset, part)) reclaimed_.fetch_add(part);
    ram_.space().ram_written(*range->ram, offset, part);
    address = address + part;
    length -= part;
  }
}

// §5.5.6.1: page frame numbers of 4 KiB, mostly of neighbours.
void BalloonDevice::inflate_locked(Queue& queue) {
  std::array<uint32_t, 256> frames;
  serve_chains_locked(queue, [&](Chain&& chain) {
    if (chain.readable_bytes() > 4 * kMostFrames) {
      fail_locked(queue, "a list of more pages than the balloon takes at once");
      return false;
    }
    uint64_t first = 0, count = 0;
    for (uint64_t at = 0; at + 4 <= chain.readable_bytes();) {
      const uint64_t part = std::min<uint64_t>(frames.size(), (chain.readable_bytes() - at) / 4);
      const auto some = std::span(frames).first(part);
      if (!chain.read(queue.dma(), at, std::as_writable_bytes(some))) break;
      at += 4 * part;
      for (const uint64_t frame : some) {
        if (count != 0 && frame == first + count) {
          ++count;
          continue;
        }
        if (count != 0 && frame + 1 == first) {
          first = frame;
          ++count;
          continue;
        }
        if (count != 0) discard_locked(GuestPhys{first * kPage}, count * kPage);
        first = frame;
        count = 1;
      }
    }
    if (count != 0) discard_locked(GuestPhys{first * kPage}, count * kPage);
    queue.push(std::move(chain), 0);
    return true;
  });
  signal_locked(queue);
}

// The host gives a page again when the guest touches it.
void BalloonDevice::deflate_locked(Queue& queue) {
  serve_chains_locked(queue, [&](Chain&& chain) {
    queue.push(std::move(chain), 0);
    return true;
  });
  signal_locked(queue);
}

// §5.5.6.3: the driver's buffer stays in the queue until new numbers are wanted.
void BalloonDevice::read_statistics_locked(Queue& queue) {
  auto chain = queue.pop();
  if (!chain) return;
  Statistics read;
  Statistic each;
  const uint64_t bytes = std::min<uint64_t>(chain->readable_bytes(), 64 * sizeof each);
  for (uint64_t at = 0; at + sizeof each <= bytes; at += sizeof each) {
    if (!chain->read_object(queue.dma(), at, each)) break;
    if (each.tag < Statistics::kTags) read.values[each.tag] = uint64_t{each.value};
  }
  statistics_ = read;
  queue.unpop(*std::move(chain));
}

void BalloonDevice::ask_for_statistics_locked() {
  for (unsigned index = 2; index < queue_count(); ++index) {
    if (role(index) != Role::kStatistics || queue(index) == nullptr) continue;
    if (auto chain = queue(index)->pop()) queue(index)->push(*std::move(chain), 0);
    signal_locked(*queue(index));
  }
}

void BalloonDevice::arm_poll() {
  if (options_.guest_stats_polling_interval == 0) return;
  timer_.set(loop_.clock().now() + int64_t{options_.guest_stats_polling_interval} * 1'000'000'000);
}

void BalloonDevice::poll() {
  const Lock lock(mutex_);
  if (!running()) return;
  ask_for_statistics_locked();
  arm_poll();
}

// §5.5.6.5: the driver sends the number of the round, then buffers that are free pages, then "stop".
void BalloonDevice::hints_locked(Queue& queue) {
  serve_chains_locked(queue, [&](Chain&& chain) {
    uint32_t command = 0;
    if (chain.readable_bytes() >= sizeof command && chain.read_object(queue.dma(), 0, command)) {
      const bool ended = hinting_ && command != hint_command_;
      hinting_ = command == hint_command_ && command >= kFirstRound;
      if (ended) {
        hint_command_ = kDone;  // the guest may have its pages back
        config_changed_locked();
      }
    }
    if (hinting_ && poison_ == 0) discard_writable_locked(chain);
    queue.push(std::move(chain), 0);
    return true;
  });
  signal_locked(queue);
}

// §5.5.6.6: the guest does not use these pages until its buffer is back.
void BalloonDevice::reports_locked(Queue& queue) {
  serve_chains_locked(queue, [&](Chain&& chain) {
    // A guest that poisons its free pages relies on finding the poison.
    if (poison_ == 0) discard_writable_locked(chain);
    queue.push(std::move(chain), 0);
    return true;
  });
  signal_locked(queue);
}

void BalloonDevice::discard_writable_locked(const Chain& chain) {
  for (const Segment& segment : chain.writable()) discard_locked(segment.address, segment.length);
}

void BalloonDevice::device_state(state::Archive& archive) {
  archive.section("virtio-balloon", 1);
  archive.field("wanted_pages", wanted_pages_);
  archive.field("actual_pages", actual_pages_);
  archive.field("poison", poison_);
  archive.field("hint_command", hint_command_);
  archive.field("last_round", last_round_);
  archive.field("hinting", hinting_);
}

void BalloonDevice::loaded_locked() {
  arm_poll();
}

}  // namespace ostler::virtio::balloon
