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
  return {config::reference<Options>("rng", "rng object", &Options::rng, "the source of random numbers")};
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

RngDevice::RngDevice(memory::AddressSpace& memory, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-rng" : options.id, {kQueueSize},
             options.withheld_features()) {}

RngDevice::~RngDevice() {
  reset();
}

void RngDevice::process(unsigned, Lock&) {
  Queue& queue = *this->queue(0);
  // At most two rounds of the ring for one notification: a flood costs the guest's own time.
  for (unsigned left = 2u * queue.size(); left != 0; --left) {
    auto chain = queue.pop();
    if (!chain) break;
    if (chain->writable_bytes() == 0) return fail_locked(queue, "a request for no random numbers");
    const uint64_t wanted = std::min(chain->writable_bytes(), kMostBytes);
    std::array<std::byte, 4096> piece;
    uint64_t done = 0;
    while (done < wanted) {
      const auto part = std::span(piece).first(std::min<uint64_t>(piece.size(), wanted - done));
      if (!fill(part) || !chain->write(queue.dma(), done, part)) break;
      done += part.size();
    }
    queue.push(*std::move(chain), static_cast<uint32_t>(done));
  }
  signal_locked(queue);
}

}  // namespace ostler::virtio::rng
