// The stream of a peer of -netdev stream: read in pieces of any size it gives the frames that it gives when
// it is read at once, and none that is too long. The first bytes say how large the pieces are.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "net/frame_reader.h"

namespace {

using ostler::net::FrameReader;

struct Seen {
  std::vector<std::string> frames;
  bool broken = false;
  bool operator==(const Seen&) const = default;
};

Seen read_all(std::span<const uint8_t> bytes, std::span<const uint8_t> sizes) {
  FrameReader reader;
  Seen seen;
  for (size_t turn = 0; !bytes.empty() && !reader.broken(); ++turn) {
    const auto space = reader.space();
    if (space.empty()) std::abort();
    const size_t wanted = sizes.empty() ? bytes.size() : sizes[turn % sizes.size()] + size_t{1};
    const size_t size = std::min({wanted, bytes.size(), space.size()});
    std::memcpy(space.data(), bytes.data(), size);
    reader.filled(size);
    bytes = bytes.subspan(size);
    while (const auto frame = reader.next()) {
      if (frame->size() < ostler::net::kMinFrame || frame->size() > ostler::net::kMaxFrame) std::abort();
      seen.frames.emplace_back(reinterpret_cast<const char*>(frame->data()), frame->size());
      reader.pop();
    }
  }
  seen.broken = reader.broken();
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kSizes = 4;
  if (size < kSizes) return 0;
  const std::span sizes(data, kSizes);
  const std::span bytes(data + kSizes, size - kSizes);
  if (read_all(bytes, {}) != read_all(bytes, sizes)) std::abort();
  return 0;
}
