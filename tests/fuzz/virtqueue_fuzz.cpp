// A split or packed virtqueue whose RAM is the fuzzer's input: two bytes choose size and features, one
// decides how often the device looks, the rest is guest memory from 0 on, with the rings at its start.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "devices/virtio/features.h"
#include "devices/virtio/queue.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ostler;
  constexpr uint64_t kRam = 64 * 1024;
  if (size < 4) return 0;
  static const auto ram = *memory::RamBlock::create({.name = "ram", .size = kRam});
  static memory::AddressSpace space("memory", memory::AddressSpace::kMemorySize);
  static memory::RamRegion region("ram", ram);
  if (!region.attached()) {
    memory::Transaction change(space);
    change.add(space.root(), 0, region);
  }
  std::memset(ram->host(), 0, kRam);
  std::memcpy(ram->host(), data + 3, std::min<size_t>(size - 3, kRam));

  virtio::QueueSetup setup;
  setup.enabled = true;
  setup.size = static_cast<uint16_t>(1u << data[0] % 6);
  setup.descriptors = 0;
  setup.driver = 16u * setup.size;
  setup.device = setup.driver + 4 + 2u * setup.size + 4;
  setup.driver &= ~uint64_t{3};
  setup.device = (setup.device + 3) & ~uint64_t{3};
  uint64_t features = 0;
  if ((data[1] & 1) != 0) features |= virtio::feature(virtio::VIRTIO_F_INDIRECT_DESC);
  if ((data[1] & 2) != 0) features |= virtio::feature(virtio::VIRTIO_F_EVENT_IDX);
  if ((data[1] & 4) != 0) features |= virtio::feature(virtio::VIRTIO_F_RING_PACKED);
  if ((data[1] & 8) != 0) features |= virtio::feature(virtio::VIRTIO_F_IN_ORDER);
  if (!virtio::Queue::fault(space, setup, 32, features).empty()) std::abort();
  virtio::Queue queue(space, 0, setup, features);

  std::array<std::byte, 64> bytes{};
  for (unsigned i = 0; i < data[2]; ++i) {
    queue.set_notifications(i % 2 == 0);
    auto chain = queue.pop();
    if (!chain) break;
    if (chain->readable().size() + chain->writable().size() > virtio::Chain::kMaxSegments) std::abort();
    chain->read(queue.dma(), i,
                std::span(bytes).first(std::min<uint64_t>(bytes.size(), chain->readable_bytes())));
    chain->write(queue.dma(), i, bytes);
    memory::Mapping mapping;
    chain->map_writable(queue.dma(), 0, chain->writable_bytes(), mapping);
    if (i % 5 == 4) {
      queue.unpop(*std::move(chain));
      continue;
    }
    queue.push(*std::move(chain), i);
    queue.should_interrupt();
  }
  // Broken is for ever.
  if (queue.broken() && queue.pop().has_value()) std::abort();
  return 0;
}
