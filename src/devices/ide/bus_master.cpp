#include "devices/ide/bus_master.h"

#include <algorithm>

namespace ostler::ide {
namespace {

constexpr uint64_t kUnit = 512;
constexpr size_t kManySpans = 256;

}  // namespace

uint8_t BusMaster::read(unsigned port) const {
  if (port == 0) return command_;
  if (port == 2) return status_;
  if (port >= 4) return static_cast<uint8_t>(table_ >> (8 * (port - 4)));
  return 0;
}

void BusMaster::write(unsigned port, uint8_t value) {
  if (port == 0) {
    const bool starts = (value & kStart) != 0 && (command_ & kStart) == 0;
    command_ = value & (kStart | kToMemory);
    ++generation_;
    if ((command_ & kStart) == 0) status_ &= static_cast<uint8_t>(~kActive);
    if (!starts) return;
    status_ |= kActive;
    region_ = address_ = left_ = 0;
    last_ = false;
  } else if (port == 2) {
    const auto cleared = static_cast<uint8_t>(value & (kError | kInterrupt));
    status_ = static_cast<uint8_t>((status_ & ~kCapable & ~cleared) | (value & kCapable));
  } else if (port >= 4) {
    const unsigned shift = 8 * (port - 4);
    table_ = ((table_ & ~(0xffu << shift)) | uint32_t{value} << shift) & ~3u;
  }
}

void BusMaster::reset() {
  command_ = status_ = 0;
  table_ = region_ = address_ = left_ = 0;
  last_ = false;
  ++generation_;
}

void BusMaster::go_back(const Position& position) {
  if (position.generation != generation_) return;
  if (position.active) status_ |= kActive;
  region_ = position.region;
  address_ = position.address;
  left_ = position.left;
  last_ = position.last;
}

BusMaster::Walk BusMaster::stop(Walk why) {
  status_ &= static_cast<uint8_t>(~kActive);
  if (why == Walk::kFault) status_ |= kError;
  return why;
}

// Makes left_ more than 0.
BusMaster::Walk BusMaster::next_region() {
  if (left_ != 0) return Walk::kOk;
  if (last_ || region_ == kMostRegions) return stop(Walk::kShort);
  struct Region {
    uint32_t address;
    uint16_t bytes;
    uint16_t flags;
  };
  const auto region = dma_.read_le<Region>(GuestPhys{table_ + uint64_t{region_} * sizeof(Region)});
  if (!region) return stop(Walk::kFault);
  ++region_;
  address_ = region->address & ~1u;
  left_ = region->bytes & ~1u;
  if (left_ == 0) left_ = 65536;
  last_ = (region->flags & 0x8000) != 0;
  return Walk::kOk;
}

BusMaster::Walk BusMaster::copy(std::span<std::byte> bytes, bool to_guest, uint64_t& done) {
  done = 0;
  while (done != bytes.size()) {
    if (const Walk walk = next_region(); walk != Walk::kOk) return walk;
    const auto piece = static_cast<uint32_t>(std::min<uint64_t>(left_, bytes.size() - done));
    const auto part = bytes.subspan(done, piece);
    const bool moved =
        to_guest ? dma_.write(GuestPhys{address_}, part) : dma_.read(GuestPhys{address_}, part);
    if (!moved) return stop(Walk::kFault);
    done += piece;
    // The cable has words: an odd end takes the other half with it.
    address_ += piece + (piece & 1);
    left_ -= piece + (piece & 1);
  }
  return Walk::kOk;
}

BusMaster::Walk BusMaster::map(uint64_t most, bool to_guest, memory::Mapping& mapping) {
  const auto direction = to_guest ? memory::Direction::kToGuest : memory::Direction::kFromGuest;
  uint64_t wanted = std::min(most, kMostChunk);
  while (mapping.bytes != wanted) {
    if (const Walk walk = next_region(); walk != Walk::kOk) {
      // Whole sectors go through; the rest of a sector is lost with the table's end.
      if (walk == Walk::kFault || mapping.bytes < kUnit || mapping.bytes % kUnit != 0)
        return stop(Walk::kShort);
      return Walk::kOk;
    }
    // Many small regions: as far as the sector that they are in.
    if (mapping.spans.size() >= kManySpans) wanted = (mapping.bytes + kUnit - 1) / kUnit * kUnit;
    const auto piece = static_cast<uint32_t>(std::min<uint64_t>(left_, wanted - mapping.bytes));
    if (piece == 0) break;
    if (!dma_.map(GuestPhys{address_}, piece, direction, mapping)) return stop(Walk::kFault);
    address_ += piece;
    left_ -= piece;
  }
  return Walk::kOk;
}

void BusMaster::drive_finished() {
  // "Interrupt and active" is what a guest sees whose table is longer than the transfer.
  if (left_ == 0 && last_) status_ &= static_cast<uint8_t>(~kActive);
}

void BusMaster::state(state::Archive& archive) {
  archive.section("ide bus master", 1);
  archive.field("command", command_);
  archive.field("status", status_);
  archive.field("table", table_);
  archive.field("region", region_);
  archive.field("address", address_);
  archive.field("left", left_);
  archive.field("last", last_);
  archive.check(region_ <= kMostRegions && left_ <= 65536 && (left_ & 1) == 0 && (address_ & 1) == 0,
                "region");
}

}  // namespace ostler::ide
