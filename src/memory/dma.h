// A device's access to guest memory: RAM only. Anything else (MMIO, holes, addresses that wrap around) is
// refused, so that a device can never be re-entered by its own DMA; a write to ROM is refused too. A refused
// access has done nothing. One thread at a time (the device's lock); a worker thread takes a copy of its own,
// which costs nothing.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "memory/address_space.h"
#include "memory/guest_access.h"

namespace ostler::memory {

enum class Direction : uint8_t { kFromGuest, kToGuest };  // the device reads, writes guest memory

// Host addresses of guest memory, for preadv and the like. Keeps the memory alive, even if it is unplugged
// meanwhile.
struct Mapping {
  struct Place {
    RamBlock* ram;
    uint64_t offset;
  };
  std::vector<iovec> spans;
  std::vector<Place> places;  // of each span
  uint64_t bytes = 0;
  std::vector<std::shared_ptr<const FlatView>> views;
};

class Dma {
 public:
  explicit Dma(AddressSpace& space) : reader_(space) {}

  bool read(GuestPhys from, std::span<std::byte> to);
  bool write(GuestPhys to, std::span<const std::byte> from);
  bool fill(GuestPhys to, uint64_t length, std::byte value);

  // Little-endian values and structures at any alignment; scalars in one access.
  template <class T>
  requires std::is_trivially_copyable_v<T> std::optional<T> read_le(GuestPhys from);
  template <class T>
  requires std::is_trivially_copyable_v<T>
  bool write_le(GuestPhys to, const T& value);

  // Shared indices of a virtqueue (Virtio 1.3 §2.7.13): naturally aligned, else refused.
  template <class T>
  requires std::is_integral_v<T> std::optional<T> load_acquire(GuestPhys from);
  template <class T>
  requires std::is_integral_v<T>
  bool store_release(GuestPhys to, T value);
  // What was there before; in one step also for the guest's own locked instructions.
  template <class T>
  requires std::is_integral_v<T> std::optional<T> exchange(GuestPhys at, T value);

  // Appends [address, address + length) to `mapping`; at most `most_spans` in all (preadv: 1024).
  bool map(GuestPhys address, uint64_t length, Direction direction, Mapping& mapping,
           size_t most_spans = 1024);
  // After writing to the first `length` bytes of spans mapped kToGuest, before the guest is told: dirty log
  // and code. Any thread.
  void written(const Mapping& mapping, uint64_t length);

  // True when the whole range is RAM that allows `direction`. Length 0: true.
  bool accessible(GuestPhys address, uint64_t length, Direction direction) {
    return check(address, length, direction);
  }

  AddressSpace& space() const { return reader_.space(); }

 private:
  struct Place {
    RamBlock* ram = nullptr;
    uint64_t offset = 0;
    std::byte* host() const { return ram->host() + offset; }
  };
  // Where `length` bytes lie in one piece; null ram: they do not.
  Place place(GuestPhys address, uint64_t length, Direction direction);
  bool check(GuestPhys address, uint64_t length, Direction direction);
  // Calls part(ram, offset in ram, length, offset in transfer) for a range that check() has just approved.
  template <class Part>
  void for_each_part(GuestPhys address, uint64_t length, Part&& part);

  AddressSpace::Reader reader_;
};

template <class T>
requires std::is_trivially_copyable_v<T> std::optional<T> Dma::read_le(GuestPhys from) {
  if (const Place at = place(from, sizeof(T), Direction::kFromGuest); at.ram != nullptr)
    return guest_load<T>(at.host());
  T value;
  if (!read(from, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
  return value;
}

template <class T>
requires std::is_trivially_copyable_v<T>
bool Dma::write_le(GuestPhys to, const T& value) {
  if (const Place at = place(to, sizeof(T), Direction::kToGuest); at.ram != nullptr) {
    guest_store<T>(at.host(), value);
    space().ram_written(*at.ram, at.offset, sizeof(T));
    return true;
  }
  return write(to, std::as_bytes(std::span(&value, 1)));
}

template <class T>
requires std::is_integral_v<T> std::optional<T> Dma::load_acquire(GuestPhys from) {
  const Place at = place(from, sizeof(T), Direction::kFromGuest);
  if (at.ram == nullptr || at.offset % sizeof(T) != 0) return std::nullopt;
  return __atomic_load_n(reinterpret_cast<const T*>(at.host()), __ATOMIC_ACQUIRE);
}

template <class T>
requires std::is_integral_v<T>
bool Dma::store_release(GuestPhys to, T value) {
  const Place at = place(to, sizeof(T), Direction::kToGuest);
  if (at.ram == nullptr || at.offset % sizeof(T) != 0) return false;
  __atomic_store_n(reinterpret_cast<T*>(at.host()), value, __ATOMIC_RELEASE);
  space().ram_written(*at.ram, at.offset, sizeof(T));
  return true;
}

template <class T>
requires std::is_integral_v<T> std::optional<T> Dma::exchange(GuestPhys at, T value) {
  const Place here = place(at, sizeof(T), Direction::kToGuest);
  if (here.ram == nullptr || here.offset % sizeof(T) != 0) return std::nullopt;
  const T before = __atomic_exchange_n(reinterpret_cast<T*>(here.host()), value, __ATOMIC_SEQ_CST);
  space().ram_written(*here.ram, here.offset, sizeof(T));
  return before;
}

}  // namespace ostler::memory
