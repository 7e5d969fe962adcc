// Kernels: bzImage with a payload packed in any way, ELF with a PVH note, multiboot. Whatever the file says,
// its pieces lie in guest RAM, and apart from what the loader puts there.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "boot/elf.h"
#include "boot/image.h"

namespace {

void require(bool good) {
  if (!good) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ostler;
  constexpr uint64_t kRam = 16u << 20;
  if (size == 0) return 0;
  const uint8_t choice = data[0];
  static constexpr uint8_t kInitrd[5000] = {};
  boot::Request request;
  request.kernel = {data + 1, size - 1};
  request.kernel_path = "kernel";
  request.initrd_path = "initrd";
  if ((choice & 1) != 0) request.initrd = kInitrd;
  request.command_line.assign((choice & 2) != 0 ? 3000 : 10, 'x');
  request.memory_map = {{{0}, 0x9fc00, boot::E820Type::kRam},
                        {{0x100000}, kRam - 0x100000, boot::E820Type::kRam}};
  request.low_ram_end = kRam;
  request.rsdp = {0xf0000};
  using Protocol = boot::Request::Protocol;
  request.protocol = (choice & 12) == 4   ? Protocol::kPvh
                     : (choice & 12) == 8 ? Protocol::kLinux64
                                          : Protocol::kAuto;
  for (const symbols::Symbol& symbol : boot::parse_symbols(request.kernel))
    require(!symbol.name.empty() && symbol.name.size() < 256);
  const auto image = boot::load_kernel(request);
  if (!image) {
    require(!image.error().message().empty());
    return 0;
  }
  uint64_t sum = 0;
  for (const boot::Chunk& chunk : image->chunks) {
    require(chunk.size() <= kRam && chunk.start.value <= kRam - chunk.size());
    for (const uint8_t byte : chunk.bytes()) sum += byte;
  }
  asm volatile("" : : "r"(sum));  // all of it is read
  return 0;
}
