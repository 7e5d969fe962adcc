// One command on its way through a logical unit: command block, the initiator's data, and how it ended
// (SAM-5 §5). Whoever executes it owns it until completed().
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/scsi/bytes.h"
#include "devices/scsi/sense.h"

namespace ostler::scsi {

enum class Status : uint8_t { kGood = 0, kCheckCondition = 2 };

struct Command {
  static constexpr size_t kCdbBytes = 32;

  virtual ~Command() = default;
  // Once for each execute(), on any thread, with no lock of the unit held.
  virtual void completed(std::shared_ptr<Command> self) = 0;

  uint8_t byte(size_t at) const { return cdb[at]; }
  uint64_t field(size_t at, size_t size) const { return big_endian(cdb, at, size); }
  // Copies the first `bytes` of what the initiator sent. Its memory can change: read it once.
  Bytes sent(size_t bytes) const;
  // Copies `bytes` to the initiator; as much as there is room for. How many.
  uint64_t give(std::span<const std::byte> bytes);
  // Takes back what an execute() before has left.
  void restart();

  std::array<uint8_t, kCdbBytes> cdb{};
  std::vector<iovec> out, in;  // from the initiator, to it
  uint64_t out_bytes = 0, in_bytes = 0;

  Status status = Status::kGood;
  Sense sense;               // of kCheckCondition
  uint64_t transferred = 0;  // bytes of `in` or `out`
  bool overrun = false;      // the command block tells of more data than there is room for; nothing was done
  int keep = 0;              // not ended: it failed with this errno and is to be executed again

  // Of whoever executes it.
  struct Range {
    uint64_t offset, bytes;
  };
  std::vector<Range> ranges;
  size_t next_range = 0;
  Bytes pattern;
};

// The first `bytes` of them.
std::vector<iovec> first_bytes(std::span<const iovec> pieces, uint64_t bytes);

}  // namespace ostler::scsi
