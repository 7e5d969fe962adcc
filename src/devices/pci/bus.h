// A PCI bus: up to 256 functions, their configuration space by address, and the wiring of interrupt pins to
// the four PIRQ wires. Functions can be added and removed while the guest runs.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "base/result.h"
#include "bus/irq.h"
#include "bus/message_fds.h"
#include "devices/pci/function.h"
#include "memory/address_space.h"

namespace ostler::pci {

// Where BARs appear: a region of a space, whose first address is `first`.
struct Window {
  memory::AddressSpace& space;
  memory::Region& region;
  uint64_t first = 0;
};

class Bus {
 public:
  static constexpr unsigned kWires = 4;

  // `pirq` takes the four wires as pins 0..3; `msi` the messages of MSI and MSI-X.
  Bus(Window memory, Window ports, bus::IrqSink& pirq, bus::MsiSink& msi);
  ~Bus();
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  // By wire, the ISA interrupt that functions plugged in from now on have in their interrupt line register,
  // as firmware would write it; 0: none. Construction time.
  void preset_interrupt_lines(const std::array<uint8_t, kWires>& lines) { lines_ = lines; }
  uint8_t interrupt_line(Address address, uint8_t pin) const {
    return pin == 0 ? 0 : lines_[wire_of(address, pin)];
  }

  // Plugs in. Without an address: function 0 of the first free slot from 1 on. kBusy: the address is taken;
  // kNoResource: no slot is free; kInvalidArgument: function over 0 while function 0 is absent or not
  // multifunction.
  Result<Address> add(std::shared_ptr<Function> function, std::optional<Address> address = {},
                      bool multifunction = false);
  // Unplugs: BARs and interrupt vanish at once. A vCPU may still be inside the object on its last access, so
  // it lives until collect(). False when it is not on this bus.
  bool remove(Function& function);
  // Destroys removed functions. The control thread calls it while no vCPU runs. Returns how many there were.
  size_t collect();

  // All-ones for absent functions; writes to them are dropped. size 1, 2, 4; within a dword.
  uint32_t config_read(uint8_t devfn, uint16_t offset, unsigned size);
  void config_write(uint8_t devfn, uint16_t offset, unsigned size, uint32_t value);
  std::shared_ptr<Function> at(uint8_t devfn) const;
  std::vector<std::shared_ptr<Function>> functions() const;  // by address

  void reset();  // every function

  const Window& memory() const { return memory_; }
  const Window& ports() const { return ports_; }
  bus::MsiSink& msi() const { return msi_; }
  // For functions whose work another process does; null: the host's kernel takes no eventfds for interrupts.
  // Set at construction time.
  bus::MessageFds* message_fds() const { return message_fds_; }
  void set_message_fds(bus::MessageFds& kernel) { message_fds_ = &kernel; }

  // INTx of slot s, pin p (1..4) is wire (s + p - 2) mod 4: slot 1 INTA is wire 0. The ACPI tables agree.
  static unsigned wire_of(Address address, uint8_t pin) { return (address.slot + pin + 2u) % kWires; }
  // Called by functions. A wire is asserted while any function drives it.
  void set_pin(Address address, uint8_t pin, bool level);

 private:
  const Window memory_;
  const Window ports_;
  bus::IrqSink& pirq_;
  bus::MsiSink& msi_;
  std::array<uint8_t, kWires> lines_{};
  bus::MessageFds* message_fds_ = nullptr;

  mutable std::shared_mutex mutex_;  // functions_, retired_
  std::array<std::shared_ptr<Function>, 256> functions_;
  std::vector<std::shared_ptr<Function>> retired_;

  std::mutex wire_mutex_;  // innermost before the interrupt controllers
  std::array<std::bitset<256>, kWires> drivers_;
};

}  // namespace ostler::pci
