#include "devices/virtio/rng/device.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace ostler::virtio::rng {
namespace {

constexpr uint16_t kQueueSize = 8;

// Fills `bytes`; false only if the kernel has no getrandom.
bool fill(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno != EINTR) return false;
    if (got > 0) bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return true;
}

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {
      reference<Options>("rng", "rng object", &Options::rng, "the source of random numbers"),
      number<Options, uint64_t>("max-bytes", &Options::max_bytes, 1, Options::kUnlimited,
                                "the most that the guest gets in a period"),
      number<Options, uint32_t>("period", &Options::period, 1, 0xffffffff, "of the limit, in milliseconds")};
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-rng-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-rng-device", with_bus_properties(own(), false));
  return table;
}

RngDevice::RngDevice(memory::AddressSpace& memory, event::Loop& loop, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-rng" : options.id, {kQueueSize},
             options.withheld_features()),
      loop_(loop),
      options_(options),
      left_(options.max_bytes),
      timer_(loop, [this] { period_over(); }) {}

RngDevice::~RngDevice() {
  reset();
}

void RngDevice::process(unsigned, Lock&) {
  serve_locked();
}

void RngDevice::serve_locked() {
  if (left_ == 0) return;  // until the period is over
  Queue& queue = *this->queue(0);
  serve_chains_locked(queue, [&](Chain&& chain) {
    if (chain.writable_bytes() == 0) {
      fail_locked(queue, "a request for no random numbers");
      return false;
    }
    const uint64_t wanted = std::min({chain.writable_bytes(), kMostBytes, left_});
    std::array<std::byte, 4096> piece;
    uint64_t done = 0;
    while (done < wanted) {
      const auto part = std::span(piece).first(std::min<uint64_t>(piece.size(), wanted - done));
      if (!fill(part) || !chain.write(queue.dma(), done, part)) break;
      done += part.size();
    }
    queue.push(std::move(chain), static_cast<uint32_t>(done));
    if (options_.max_bytes == Options::kUnlimited) return true;
    left_ -= done;
    if (deadline_ < 0) {
      deadline_ = loop_.clock().now() + int64_t{options_.period} * 1'000'000;
      timer_.set(deadline_);
    }
    return left_ != 0;
  });
  signal_locked(queue);
}

// The period outlives a reset of the device: a guest cannot get more by resetting it.
void RngDevice::period_over() {
  const Lock lock(mutex_);
  if (deadline_ < 0 || loop_.clock().now() < deadline_) return;
  deadline_ = -1;
  left_ = options_.max_bytes;
  if (running() && queue(0) != nullptr) serve_locked();
}

void RngDevice::device_state(state::Archive& archive) {
  archive.section("virtio-rng", 2);
  if (archive.version() < 2) return;
  archive.field("left", left_);
  archive.check(left_ <= options_.max_bytes, "left");
  archive.field("deadline", deadline_);
  if (archive.failed()) return;
  if (archive.loading() && deadline_ >= 0) timer_.set(deadline_);
}

void RngDevice::loaded_locked() {
  // A stream of a machine with another period must not stop this one for longer.
  if (deadline_ < 0) return;
  deadline_ = std::min(deadline_, loop_.clock().now() + int64_t{options_.period} * 1'000'000);
  timer_.set(deadline_);
}

}  // namespace ostler::virtio::rng
