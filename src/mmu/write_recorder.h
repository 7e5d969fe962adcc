// Takes back what instructions wrote: for running them twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace ostler::mmu {

class WriteRecorder {
 public:
  // Thrown by accesses that cannot be taken back.
  struct NotMemory {};

  struct Write {
    std::byte* host;
    uint8_t size;
    uint8_t before[32], after[32];
  };

  void clear() { writes_.clear(); }
  // Before [host, host + size) is written.
  void note(std::byte* host, size_t size) {
    while (size != 0) {
      Write write;
      write.host = host;
      write.size = static_cast<uint8_t>(size < 32 ? size : 32);
      std::memcpy(write.before, host, write.size);
      host += write.size;
      size -= write.size;
      writes_.push_back(write);
    }
  }
  void take_back() {
    for (Write& write : writes_) std::memcpy(write.after, write.host, write.size);
    for (size_t i = writes_.size(); i-- > 0;)
      std::memcpy(writes_[i].host, writes_[i].before, writes_[i].size);
  }
  std::span<const Write> writes() const { return writes_; }

 private:
  std::vector<Write> writes_;
};

}  // namespace ostler::mmu
