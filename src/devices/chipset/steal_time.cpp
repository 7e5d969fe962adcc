#include "devices/chipset/steal_time.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "base/fd.h"

namespace ostler::chipset {
namespace {

// struct kvm_steal_time
constexpr uint64_t kSteal = 0, kVersion = 8, kPreempted = 16;
constexpr uint8_t kNotRunning = 1, kFlushTlb = 2;
constexpr uint64_t kReserved = 0x3e;

}  // namespace

bool StealTime::set_msr(uint64_t value) {
  if ((value & kReserved) != 0) return false;
  msr_ = value;
  before_.reset();
  // What the guest's memory held before is no request.
  if (enabled()) dma_.exchange<uint8_t>(at(kPreempted), 0);
  update();
  return true;
}

void StealTime::halted() {
  if (enabled()) dma_.exchange<uint8_t>(at(kPreempted), kNotRunning);
}

bool StealTime::running() {
  if (!enabled()) return false;
  const auto before = dma_.exchange<uint8_t>(at(kPreempted), 0);
  // Where the record has gone nobody can have asked, or everybody.
  return !before || (*before & kFlushTlb) != 0;
}

void StealTime::update() {
  if (!enabled()) return;
  const uint64_t now = delay_ns_();
  if (before_ && now > *before_) stolen_ += now - *before_;
  before_ = now;
  // An odd version tells the guest that the record is being written.
  const auto version = dma_.load_acquire<uint32_t>(at(kVersion));
  if (!version) return;
  dma_.store_release<uint32_t>(at(kVersion), *version | 1);
  dma_.store_release<uint64_t>(at(kSteal), stolen_);
  dma_.store_release<uint32_t>(at(kVersion), (*version | 1) + 1);
}

// Another thread, of another process perhaps, runs the vCPU after a load: its delay begins anew.
void StealTime::state(state::Archive& archive) {
  archive.section("steal-time", 1);
  archive.field("msr", msr_);
  archive.field("stolen", stolen_);
  archive.check((msr_ & kReserved) == 0, "msr");
  if (archive.loading()) before_.reset();
}

// "on the processor, waiting for it, time slices", the first two in ns.
uint64_t scheduling_delay_ns() {
  thread_local const Fd file(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  char text[96];
  const ssize_t size = file ? pread(file.get(), text, sizeof text, 0) : -1;
  if (size <= 0) return 0;
  const auto* blank = static_cast<const char*>(std::memchr(text, ' ', static_cast<size_t>(size)));
  uint64_t delay = 0;
  if (blank != nullptr) std::from_chars(blank + 1, text + size, delay);
  return delay;
}

}  // namespace ostler::chipset
