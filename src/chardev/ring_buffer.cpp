// The last bytes of output, kept in memory until somebody asks (QMP ringbuf-read).
#include <algorithm>
#include <bit>
#include <deque>
#include <mutex>

#include "chardev/backends.h"

namespace ostler::chardev {
namespace {

class RingBuffer final : public CharBackend {
 public:
  explicit RingBuffer(size_t size) : size_(size) {}

  void attach(CharFrontend*) override {}
  void accept_input() override {}
  size_t write(std::span<const std::byte> bytes) override {
    const std::lock_guard lock(mutex_);
    for (const std::byte byte : bytes) {
      if (kept_.size() == size_) kept_.pop_front();
      kept_.push_back(static_cast<char>(byte));
    }
    return bytes.size();
  }
  std::string read(size_t most) {
    const std::lock_guard lock(mutex_);
    const auto count = static_cast<std::ptrdiff_t>(std::min(most, kept_.size()));
    std::string text(kept_.begin(), kept_.begin() + count);
    kept_.erase(kept_.begin(), kept_.begin() + count);
    return text;
  }

 private:
  const size_t size_;
  std::mutex mutex_;
  std::deque<char> kept_;
};

}  // namespace

Result<std::unique_ptr<CharBackend>> make_ring(const Options& options) {
  constexpr size_t kMost = 64 << 20;
  if (!std::has_single_bit(options.ring_size) || options.ring_size > kMost)
    return Error(ErrorKind::kInvalidArgument,
                 "character device: the size of a ring buffer is a power of two up to 64M");
  return std::unique_ptr<CharBackend>(std::make_unique<RingBuffer>(options.ring_size));
}

std::string read_ring(CharBackend& backend, size_t most) {
  auto* ring = dynamic_cast<RingBuffer*>(&without_log(backend));
  return ring == nullptr ? std::string() : ring->read(most);
}

}  // namespace ostler::chardev
