#include "devices/scsi/command.h"

#include <algorithm>
#include <cstring>

namespace ostler::scsi {

Bytes Command::sent(size_t bytes) const {
  Bytes copy;
  copy.reserve(bytes);
  for (const iovec& piece : first_bytes(out, bytes)) {
    const auto* const from = static_cast<const std::byte*>(piece.iov_base);
    copy.insert(copy.end(), from, from + piece.iov_len);
  }
  copy.resize(bytes);
  return copy;
}

uint64_t Command::give(std::span<const std::byte> bytes) {
  uint64_t given = 0;
  for (const iovec& piece : first_bytes(in, bytes.size())) {
    std::memcpy(piece.iov_base, bytes.data() + given, piece.iov_len);
    given += piece.iov_len;
  }
  return given;
}

void Command::restart() {
  status = Status::kGood;
  sense = {};
  transferred = 0;
  overrun = false;
  keep = 0;
  ranges.clear();
  next_range = 0;
  pattern.clear();
}

std::vector<iovec> first_bytes(std::span<const iovec> pieces, uint64_t bytes) {
  std::vector<iovec> cut;
  for (const iovec& piece : pieces) {
    if (bytes == 0) break;
    const size_t length = std::min<uint64_t>(piece.iov_len, bytes);
    cut.push_back({piece.iov_base, length});
    bytes -= length;
  }
  return cut;
}

}  // namespace ostler::scsi
