// What a vhost-user back end does with a ring that it shares with us: it writes anywhere in it at any time.
// With the guest's used ring, the guest does too.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "devices/virtio/vhost_user/shadow_ring.h"

namespace {

using namespace ostler;
using virtio::Chain;
using virtio::Segment;
using virtio::vhost_user::ShadowRing;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  uint16_t word() { return static_cast<uint16_t>(byte() << 8 | byte()); }

 private:
  const uint8_t* data_;
  size_t left_;
};

constexpr uint16_t kGuestSize = 16;

Chain chain(uint8_t readable, uint8_t writable, uint16_t head = 0) {
  std::vector<Segment> segments;
  for (unsigned i = 0; i < 1u + readable + writable; ++i) segments.push_back({GuestPhys{i}, 4096});
  return Chain(head, std::move(segments), readable + 1u);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::vector<std::byte> memory(ShadowRing::kBytes), guest(4 + 8 * kGuestSize);
  ShadowRing ring(memory.data());
  size_t given = 0;
  const auto lend = [&](uint16_t index) {
    ring.reset({.ram = {}, .used = guest.data(), .size = kGuestSize, .index = index});
    given = 0;
  };
  for (Input input(data, size); !input.empty();) {
    switch (input.byte() % 8) {
      case 0: {
        const uint8_t readable = input.byte(), writable = input.byte();
        Chain next = chain(readable, writable, ring.lent() ? input.byte() : 0);
        if (!ring.takes(next.head()) || !ring.fits(next)) break;
        ring.add(std::move(next));
        ++given;
        break;
      }
      case 1:
        ring.publish();
        break;
      case 2:
        while (const auto done = ring.take()) {
          if (done->written > done->chain.writable_bytes() || given-- == 0) std::abort();
        }
        break;
      case 3:  // anywhere in the used ring
        memory[ShadowRing::kUsed + input.word() % (ShadowRing::kBytes - ShadowRing::kUsed)] =
            std::byte{input.byte()};
        break;
      case 4:
        memory[input.word() % ShadowRing::kUsed] = std::byte{input.byte()};
        break;
      case 5:
        lend(input.word());
        break;
      case 6:
        guest[input.byte() % guest.size()] = std::byte{input.byte()};
        break;
      default:
        if (ring.give_back().size() != given) std::abort();
        given = 0;
    }
    if (ring.outstanding() != given) std::abort();
  }
  return 0;
}
