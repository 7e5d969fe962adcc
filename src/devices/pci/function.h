// One PCI function: configuration space, BARs that appear in memory or port space as the guest programs them,
// and its interrupt pin. Devices own a Function, or derive from it when configuration accesses mean more.
//
// Threads: configuration accesses come from any vCPU; mutex_ guards config_ and the mappings. Lock order:
// mutex_ -> AddressSpace; set_interrupt() takes the bus's interrupt lock only.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "devices/pci/config_space.h"
#include "memory/address_space.h"
#include "memory/region.h"
#include "state/archive.h"

namespace ostler::pci {

class Bus;

// Slot and function on a bus: the "devfn" byte.
struct Address {
  uint8_t slot = 0;      // 0..31
  uint8_t function = 0;  // 0..7
  uint8_t devfn() const { return static_cast<uint8_t>(slot << 3 | function); }
  friend bool operator==(const Address&, const Address&) = default;
};

struct Identity {
  uint16_t vendor = 0;
  uint16_t device = 0;
  uint8_t revision = 0;
  uint32_t class_code = 0;  // base << 16 | subclass << 8 | interface
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem = 0;
  uint8_t interrupt_pin = 0;  // 0 none, 1 INTA … 4 INTD
};

enum class BarKind : uint8_t { kNone, kIo, kMemory32, kMemory64 };

class Function : public state::Savable {
 public:
  Function(std::string name, const Identity& identity);
  ~Function() override;
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;

  const std::string& name() const { return name_; }
  Address address() const { return address_; }
  bool on_bus() const { return bus_ != nullptr; }

  // The guest's accesses; offset < 0x1000, size 1, 2 or 4, not crossing a dword.
  uint32_t config_read(uint16_t offset, unsigned size);
  void config_write(uint16_t offset, unsigned size, uint32_t value);

  // The level of the interrupt pin. Any thread.
  void set_interrupt(bool level);
  bool bus_master() const { return bus_master_.load(std::memory_order_acquire); }

  // A bus reset (RST#): BARs unmapped, command cleared. Then the device's own reset_device().
  void reset();
  void state(state::Archive& archive) final;

 protected:
  // To be called by constructors. `region`'s size, rounded up to a power of two by the caller, is the BAR's
  // (I/O: 4 to 256 bytes; memory: at least 16). A 64-bit BAR takes two indices.
  void add_bar(unsigned index, BarKind kind, memory::Region& region, bool prefetchable = false);
  ConfigSpace& config() { return config_; }

  // Hooks. With mutex_ held:
  virtual void config_changed_locked(uint16_t /*offset*/, unsigned /*size*/) {}
  // Without it: a chance to answer accesses that the plain bytes cannot; `handled` false: as usual.
  virtual bool read_special(uint16_t /*offset*/, unsigned /*size*/, uint32_t& /*value*/) { return false; }
  virtual bool write_special(uint16_t /*offset*/, unsigned /*size*/, uint32_t /*value*/) { return false; }
  virtual void reset_device() {}
  virtual void device_state(state::Archive&) {}

  Bus* bus() const { return bus_; }
  std::mutex mutex_;

 private:
  friend class Bus;
  struct Bar {
    BarKind kind = BarKind::kNone;
    memory::Region* region = nullptr;
    uint64_t size = 0;
    bool mapped = false;
    uint64_t address = 0;
  };
  // Called by the bus.
  void attach(Bus& bus, Address address, bool multifunction);
  void detach();  // takes everything out of the address spaces, releases the interrupt pin

  void update_mappings_locked();
  void update_interrupt_locked();
  // Where the registers put the BAR; false: nowhere.
  bool wanted_address(unsigned index, uint64_t& address) const;

  const std::string name_;
  const uint8_t interrupt_pin_;
  uint16_t command_mask_ = 0;  // decode bits that the BARs make writable
  ConfigSpace config_;
  std::array<Bar, 6> bars_{};
  Bus* bus_ = nullptr;
  Address address_;
  std::atomic<bool> bus_master_{false};

  // Innermost but for the bus's: the pin as the device drives it, the disable bit as the guest wrote it.
  std::mutex interrupt_mutex_;
  bool interrupt_level_ = false;
  bool interrupt_disabled_ = false;
  bool interrupt_driven_ = false;
};

}  // namespace ostler::pci
