// Memory for what a packed file holds: address space for the most it may be, of which what is written takes
// memory, in huge pages where the host has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/result.h"

namespace ostler::boot {

class Unpacked {
 public:
  // Room for `most` bytes.
  static Result<Unpacked> reserve(size_t most);
  Unpacked() = default;
  ~Unpacked();
  Unpacked(Unpacked&& other) noexcept { swap(other); }
  Unpacked& operator=(Unpacked&& other) noexcept {
    swap(other);
    return *this;
  }

  // Stays where it is when this is moved.
  uint8_t* data() { return data_; }
  size_t room() const { return room_; }  // bytes
  void set_size(size_t bytes) { bytes_ = {data_, bytes}; }
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  void swap(Unpacked& other) {
    std::swap(memory_, other.memory_);
    std::swap(mapped_, other.mapped_);
    std::swap(data_, other.data_);
    std::swap(room_, other.room_);
    std::swap(bytes_, other.bytes_);
  }

  void* memory_ = nullptr;
  size_t mapped_ = 0;
  uint8_t* data_ = nullptr;  // in it, where a huge page begins
  size_t room_ = 0;
  std::span<const uint8_t> bytes_;
};

}  // namespace ostler::boot
