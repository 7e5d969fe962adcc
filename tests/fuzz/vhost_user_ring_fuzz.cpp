// What a vhost-user back end does with a ring that it shares with us: it writes anywhere in it at any time.
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

Chain chain(uint8_t readable, uint8_t writable) {
  std::vector<Segment> segments;
  for (unsigned i = 0; i < 1u + readable + writable; ++i) segments.push_back({GuestPhys{i}, 4096});
  return Chain(0, std::move(segments), readable + 1u);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::vector<std::byte> memory(ShadowRing::kBytes);
  ShadowRing ring(memory.data());
  size_t given = 0;
  for (Input input(data, size); !input.empty();) {
    switch (input.byte() % 6) {
      case 0: {
        Chain next = chain(input.byte(), input.byte());
        if (!ring.fits(next)) break;
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
      default:
        if (ring.give_back().size() != given) std::abort();
        given = 0;
    }
    if (ring.outstanding() != given) std::abort();
  }
  return 0;
}
