// Members of an .ova: every header that the chain from the first one reaches, as `import` walks it.
#include <cstring>

#include "img/ova.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using ostler::img::kTarBlock;
  std::array<std::byte, kTarBlock> header;
  uint64_t at = 0;
  while (at + kTarBlock <= size) {
    std::memcpy(header.data(), data + at, kTarBlock);
    auto member = ostler::img::read_tar_header(header, at, size);
    if (!member || !*member) break;
    const auto& found = **member;
    if (found.next <= at || found.offset > size || found.bytes > size - found.offset) __builtin_trap();
    at = found.next;
  }
  return 0;
}
