// virtio-balloon (Virtio 1.2 §5.5): takes memory from the guest and gives it back to the host, by the guest's
// consent.
//
// Pages that the guest puts into the balloon, and those that it reports as free, are given to the host on the
// thread that notifies; they read as zeros when the guest takes them back. Queues: inflate, deflate, then
// statistics, hints of free pages and reports of free pages, as far as they were negotiated.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "event/loop.h"

namespace ostler::virtio::balloon {

// §5.5.3
inline constexpr unsigned VIRTIO_BALLOON_F_MUST_TELL_HOST = 0;
inline constexpr unsigned VIRTIO_BALLOON_F_STATS_VQ = 1;
inline constexpr unsigned VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 2;
inline constexpr unsigned VIRTIO_BALLOON_F_FREE_PAGE_HINT = 3;
inline constexpr unsigned VIRTIO_BALLOON_F_PAGE_POISON = 4;
inline constexpr unsigned VIRTIO_BALLOON_F_PAGE_REPORTING = 5;

struct Options : DeviceOptions {
  bool deflate_on_oom = false;
  bool free_page_hint = false;
  std::string iothread;  // need not do anything: the host asks for free pages on the event loop
  bool free_page_reporting = false;
  bool page_poison = true;
  uint32_t guest_stats_polling_interval = 0;  // s; 0: statistics are asked for once
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

// What the guest tells of its memory (§5.5.6.3), by tag: bytes, but for counts of faults.
struct Statistics {
  static constexpr size_t kTags = 10;
  std::array<std::optional<uint64_t>, kTags> values;
};

class BalloonDevice final : public Device {
 public:
  // `guest_bytes`: all of the guest's RAM.
  BalloonDevice(memory::AddressSpace& memory, event::Loop& loop, uint64_t guest_bytes,
                const Options& options);
  ~BalloonDevice() override;
  uint16_t type() const override { return kTypeBalloon; }

  // Any thread. How much memory the guest is to keep, in bytes; the guest follows as it can.
  void set_target(uint64_t bytes);
  // How much it has now.
  uint64_t actual();
  // As last told.
  Statistics statistics();
  // Asks the guest for its free pages, once, and gives those to the host (FREE_PAGE_HINT). False: the driver
  // cannot.
  bool reclaim_free_pages();
  // Bytes given to the host since the machine started, by any of the ways.
  uint64_t reclaimed() const { return reclaimed_.load(); }

 private:
  enum class Role { kInflate, kDeflate, kStatistics, kHints, kReports, kNone };

  Role role(unsigned queue) const;
  uint64_t device_features() const override;
  void config_locked(std::vector<std::byte>& config) override;
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  void process(unsigned queue, Lock& lock) override;
  void started_locked() override;
  void stopped_locked() override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;

  void inflate_locked(Queue& queue);
  void deflate_locked(Queue& queue);
  void read_statistics_locked(Queue& queue);
  void ask_for_statistics_locked();
  void hints_locked(Queue& queue);
  void reports_locked(Queue& queue);
  void discard_writable_locked(const Chain& chain);
  void discard_locked(GuestPhys address, uint64_t length);
  void arm_poll();
  void poll();

  event::Loop& loop_;
  const uint64_t guest_pages_;
  const Options options_;
  std::atomic<uint64_t> reclaimed_{0};
  memory::AddressSpace::Reader ram_;  // guarded by mutex_
  // Guarded by mutex_.
  uint32_t wanted_pages_ = 0;  // in the balloon; survives resets
  uint32_t actual_pages_ = 0;
  uint32_t poison_ = 0;
  uint32_t hint_command_ = 0;  // §5.5.6.5: 0 stop, 1 done, else the number of a round
  uint32_t last_round_ = 1;
  bool hinting_ = false;  // the guest works on round hint_command_
  Statistics statistics_;
  event::Timer timer_;  // last: its destructor waits for the callback
};

}  // namespace ostler::virtio::balloon
