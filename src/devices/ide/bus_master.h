// The bus master of one IDE channel: registers, and the walk through the guest's table of physical regions
// ("Programming Interface for Bus Master IDE Controller", 1.0; 82371SB §2.7). Under the channel's lock.
#pragma once

#include <cstdint>
#include <span>

#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::ide {

class BusMaster {
 public:
  static constexpr unsigned kPorts = 8;
  static constexpr uint64_t kMostChunk = 1u << 20;  // bytes that the host's disk gets at once

  explicit BusMaster(memory::AddressSpace& memory) : dma_(memory) {}

  uint8_t read(unsigned port) const;
  void write(unsigned port, uint8_t value);
  void reset();
  void interrupt() { status_ |= kInterrupt; }
  bool active() const { return (status_ & kActive) != 0; }
  // The direction that the guest has set: true is from the drive.
  bool to_guest() const { return (command_ & kToMemory) != 0; }

  enum class Walk : uint8_t {
    kOk,
    kShort,  // the table ended before anything could be done
    kFault,  // the table or a region is not in RAM
  };
  // Copies until `bytes` are through or the table ends; `done` counts them. The master stops at the table's
  // end and at a fault.
  Walk copy(std::span<std::byte> bytes, bool to_guest, uint64_t& done);
  // The next piece, a multiple of 512 and `most` at most, as host addresses.
  Walk map(uint64_t most, bool to_guest, memory::Mapping& mapping);
  void written(const memory::Mapping& mapping) { dma_.written(mapping, mapping.bytes); }
  void drive_finished();  // the command is done: the master is not active any more

  // Where it is in the table; going back to it undoes map(), unless the guest has started or stopped the
  // master since.
  struct Position {
    uint64_t generation = 0;
    bool active = false;
    uint32_t region = 0, address = 0, left = 0;
    bool last = false;
  };
  Position position() const { return {generation_, active(), region_, address_, left_, last_}; }
  void go_back(const Position& position);

  void state(state::Archive& archive);

 private:
  static constexpr uint8_t kStart = 1, kToMemory = 8;
  static constexpr uint8_t kActive = 1, kError = 2, kInterrupt = 4, kCapable = 0x60;
  // A table lies in 64 KiB; whoever leaves out the end mark does not keep us longer than that.
  static constexpr uint32_t kMostRegions = 8192;

  Walk next_region();
  Walk stop(Walk why);

  memory::Dma dma_;
  uint8_t command_ = 0, status_ = 0;
  uint32_t table_ = 0;
  uint32_t region_ = 0;   // index of the next
  uint32_t address_ = 0;  // rest of the current one
  uint32_t left_ = 0;
  bool last_ = false;
  uint64_t generation_ = 0;  // of command_
};

}  // namespace ostler::ide
