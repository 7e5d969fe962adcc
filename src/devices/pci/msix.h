// MSI-X (PCI 3.0 §6.8.2) and MSI (§6.8.1): a function's message-signalled interrupts.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bus/io_handler.h"
#include "bus/irq.h"
#include "bus/message_fds.h"
#include "devices/pci/config_space.h"
#include "memory/region.h"
#include "state/archive.h"

namespace ostler::pci {

// The table and the pending bit array, in one memory BAR:
//
//     0             entries of 16 bytes: address low, address high, data, vector control (bit 0 masks)
//     size() / 2    pending bits, 64 a quadword
//
// Owned by its function. notify() from any thread; its lock is below device locks and above the local APICs.
class Msix final : public bus::IoHandler {
 public:
  // 1 to 2048 vectors.
  Msix(std::string name, unsigned vectors);

  // Adds the capability, pointing at BAR `bar`.
  void add_capability(ConfigSpace& config, unsigned bar);
  memory::Region& region() { return region_; }
  unsigned vectors() const { return static_cast<unsigned>(entries_.size()); }

  // The function's configuration or bus mastering changed. `sink` is null while messages cannot leave.
  void update(const ConfigSpace& config, bus::MsiSink* sink);
  bool enabled() const { return enabled_.load(std::memory_order_acquire); }

  // Sends vector `index`, or remembers it as pending while masked. Ignored when there is no such vector or
  // MSI-X is off.
  void notify(unsigned index);
  void reset();

  // Eventfds of another process or of the kernel, whose signals are notifications too: the host's kernel
  // sends them, and while they cannot leave they wait in the eventfd, as pending. `fd` does not block, and
  // stays open until remove_source(). The number of the source, of no vector at first; none: the kernel has
  // no room.
  std::optional<unsigned> add_source(int fd, bus::MessageFds& kernel);
  // Of vector `index` from now on; none, or no such vector: they wait, and nothing tells.
  void assign_source(unsigned source, std::optional<unsigned> index) {
    const Assignment one{source, index};
    assign_sources({&one, 1});
  }
  struct Assignment {
    unsigned source;
    std::optional<unsigned> index;
  };
  // The same for several, of which the kernel hears at once.
  void assign_sources(std::span<const Assignment> assignments);
  void remove_source(unsigned source);

  std::string_view name() const override { return name_; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

  void state(state::Archive& archive);

 private:
  struct Entry {
    uint32_t words[4] = {0, 0, 0, 1};
    bool masked() const { return (words[3] & 1) != 0; }
    GuestPhys address() const { return {uint64_t{words[1]} << 32 | (words[0] & ~3u)}; }
  };
  struct Source {
    int fd = -1;
    std::unique_ptr<bus::MessageFd> kernel;  // null: removed
    std::optional<unsigned> vector;
    bool sends = false;
  };
  bool leaves_locked(unsigned index) const;
  bool pending_locked(unsigned index) const;
  void update_sources_locked();
  void empty_sources_locked();
  uint32_t read32_locked(uint64_t offset) const;
  void deliver_locked(unsigned index);
  void deliver_pending_locked();

  const std::string name_;
  const uint64_t table_bytes_;  // half of the region
  memory::IoRegion region_;
  uint16_t capability_ = 0;
  std::atomic<bool> enabled_{false};

  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
  std::vector<bool> pending_;
  std::vector<Source> sources_;
  bus::MessageFds* message_fds_ = nullptr;  // of all sources
  bool function_masked_ = false;
  bus::MsiSink* sink_ = nullptr;
};

// MSI with 64-bit address, without per-vector masking; up to 32 vectors.
class Msi {
 public:
  explicit Msi(unsigned vectors);  // a power of two
  void add_capability(ConfigSpace& config);
  void update(const ConfigSpace& config, bus::MsiSink* sink);
  bool enabled() const;
  // Vectors beyond those the guest enabled share the last one (§6.8.3.4 leaves the choice to the device).
  void notify(unsigned index);

 private:
  const unsigned vectors_;
  uint16_t capability_ = 0;
  mutable std::mutex mutex_;
  bool enabled_ = false;
  unsigned enabled_vectors_ = 1;
  uint64_t address_ = 0;
  uint16_t data_ = 0;
  bus::MsiSink* sink_ = nullptr;
};

}  // namespace ostler::pci
