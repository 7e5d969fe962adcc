// The device's side of a packed ring (Virtio 1.2 §2.8): one table of descriptors that both sides write, in
// which each side's wrap counter, turned over at the end of the table, tells new entries from those of the
// last round.
#pragma once

#include "devices/virtio/ring.h"

namespace ostler::virtio {

class PackedRing final : public Ring {
 public:
  using Ring::Ring;

  static uint64_t descriptors_bytes(uint16_t size) { return kDescriptorSize * size; }
  static constexpr uint64_t kEventBytes = 4;

  bool empty() override;
  std::optional<Chain> pop() override;
  void unpop(const Chain& chain) override;
  void stage(uint16_t head, uint16_t slots, uint32_t written) override;
  void publish() override;
  bool should_interrupt() override;
  void set_notifications(bool on) override;
  void state(state::Archive& archive) override;

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t id;
    uint16_t flags;
  };
  static constexpr uint64_t kFlagsOffset = 14;

  // A place in the ring with the wrap counter that holds there.
  struct Position {
    uint16_t slot = 0;
    bool wrap = true;
    void move(int slots, uint16_t size);
  };
  GuestPhys descriptor(uint16_t slot) const { return GuestPhys{setup_.descriptors + slot * kDescriptorSize}; }
  bool is_available(uint16_t flags) const;
  bool walk_indirect(const Descriptor& descriptor, Parsed& parsed);

  Position available_, used_;
  uint16_t outstanding_ = 0;  // slots that were taken and not given back
  uint16_t unsignalled_ = 0;  // slots used since should_interrupt() was last asked, at most the ring's size
  bool notifications_ = true;
  // Of stage(): the first entry becomes visible last.
  uint16_t staged_slots_ = 0;
  uint16_t first_flags_ = 0;
};

}  // namespace ostler::virtio
