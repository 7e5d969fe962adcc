// The 8254's state as KVM takes and gives it. While the vCPUs are paused.
#include <algorithm>

#include "devices/chipset/pit.h"

namespace ostler::chipset {

PitCounter::Image PitCounter::image(int64_t now) {
  settle(now);
  return {.mode = mode_,
          .access = static_cast<uint8_t>(access_),
          .bcd = bcd_,
          .gate = gate_,
          .loaded = loaded_,
          .write_high_next = write_high_next_,
          .read_high_next = read_high_next_,
          .low_byte = low_byte_,
          .count = next_count_ != 0 ? next_count_ : count_,
          .count_latched = count_latched_,
          .status_latched = status_latched_,
          .latched_count = latched_count_,
          .latched_status = latched_status_};
}

// The kernel is believed, and yet no value gets in that the counter could not hold.
void PitCounter::set_image(const Image& image, int64_t now) {
  *this = PitCounter();
  mode_ = image.mode > 5 ? image.mode & 3 : image.mode;
  access_ = static_cast<Access>(std::clamp<uint8_t>(image.access, 1, 3));
  bcd_ = image.bcd;
  gate_ = image.gate;
  write_high_next_ = image.write_high_next;
  read_high_next_ = image.read_high_next;
  low_byte_ = image.low_byte;
  count_ = std::clamp<uint32_t>(image.count, 1, 0x10000);
  count_latched_ = image.count_latched;
  status_latched_ = image.status_latched;
  latched_count_ = image.latched_count;
  latched_status_ = image.latched_status;
  if (image.loaded) load(count_, now);
}

PitImage Pit::image() {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  PitImage out;
  for (size_t i = 0; i < counters_.size(); ++i) out.counters[i] = counters_[i].image(now);
  out.speaker = (control_ & 2) != 0;
  return out;
}

void Pit::set_image(const PitImage& image) {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  for (size_t i = 0; i < counters_.size(); ++i) counters_[i].set_image(image.counters[i], now);
  control_ = static_cast<uint8_t>((control_ & 0xc) | (image.speaker ? 2 : 0) | (counters_[2].gate() ? 1 : 0));
  if (line_) irq_.lower();
  line_ = false;
  deadline_ = counters_[0].next_rise(now);
  timer_.cancel();
  if (deadline_ >= 0 && !in_kernel_) timer_.set(deadline_);
}

void Pit::lower_line() {
  const std::lock_guard lock(mutex_);
  if (line_) irq_.lower();
  line_ = false;
}

}  // namespace ostler::chipset
