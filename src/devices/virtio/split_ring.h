// The device's side of a split ring (Virtio 1.2 §2.7).
#pragma once

#include "devices/virtio/ring.h"

namespace ostler::virtio {

class SplitRing final : public Ring {
 public:
  using Ring::Ring;

  // Bytes of the three parts of a ring of `size` descriptors.
  static uint64_t descriptors_bytes(uint16_t size) { return kDescriptorSize * size; }
  static uint64_t available_bytes(uint16_t size) { return kRing + 2 * uint64_t{size} + 2; }
  static uint64_t used_bytes(uint16_t size) { return kRing + 8 * uint64_t{size} + 2; }

  bool empty() override;
  std::optional<Chain> pop() override;
  void unpop(const Chain& chain) override;
  void stage(uint16_t head, uint16_t slots, uint32_t written) override;
  void publish() override;
  bool should_interrupt() override;
  void set_notifications(bool on) override;
  std::optional<UsedRing> lend_used() override;
  void used_elsewhere(uint16_t count) override;
  void state(state::Archive& archive) override;

 private:
  // §2.7.6, §2.7.8: byte offsets within the rings.
  static constexpr uint64_t kFlags = 0, kIndex = 2, kRing = 4;

  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  std::optional<uint16_t> available_index();
  bool walk_table(GuestPhys table, uint32_t entries, uint16_t first, bool indirect, Parsed& parsed);

  GuestPhys available(uint64_t offset) const { return GuestPhys{setup_.driver + offset}; }
  GuestPhys used(uint64_t offset) const { return GuestPhys{setup_.device + offset}; }

  uint16_t next_available_ = 0;  // of the free-running indices
  uint16_t next_used_ = 0;
  uint16_t staged_ = 0;          // entries past next_used_
  uint16_t signalled_used_ = 0;  // next_used_ when should_interrupt() was last asked
  bool signalled_valid_ = false;
  bool notifications_ = true;
};

}  // namespace ostler::virtio
