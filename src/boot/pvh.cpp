#include "boot/pvh.h"

#include <fmt/format.h>

#include "base/bytes.h"

namespace ostler::boot {
namespace {

constexpr uint32_t kStartMagic = 0x336ec578;
constexpr size_t kStartInfoSize = 56, kModuleSize = 32, kMapEntrySize = 24, kMostMapEntries = 128;

}  // namespace

Result<Image> load_pvh(const Request& request, Elf elf) {
  if (request.command_line.size() >= kCommandLineSpace)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the command line of -append has {} bytes, at most {} fit",
                             request.command_line.size(), kCommandLineSpace - 1));
  TRY(check_segments(elf.segments));

  Image image;
  image.protocol = "PVH";
  image.entry = Entry::kProtected32;
  image.long_mode = elf.is64;
  image.rip = *elf.pvh_entry;
  image.rbx = kStartInfoAddress.value;
  image.chunks = std::move(elf.segments);

  // One chunk: start info, module list, memory map.
  const uint64_t modules = kStartInfoSize;
  const uint64_t map = modules + kModuleSize;
  const size_t entries = std::min(request.memory_map.size(), kMostMapEntries);
  std::vector<uint8_t> info(map + entries * kMapEntrySize);
  store_le(&info[0], kStartMagic);
  store_le(&info[4], uint32_t{1});                                  // version
  store_le(&info[12], uint32_t{request.initrd.empty() ? 0u : 1u});  // nr_modules
  store_le(&info[16], request.initrd.empty() ? 0 : kStartInfoAddress.value + modules);
  store_le(&info[24], kCommandLineAddress.value);
  store_le(&info[32], request.rsdp.value);
  store_le(&info[40], kStartInfoAddress.value + map);
  store_le(&info[48], static_cast<uint32_t>(entries));
  if (!request.initrd.empty()) {
    TRY_ASSIGN(const GuestPhys at, place_initrd(request, elf.end, uint64_t{1} << 32));
    store_le(&info[modules], at.value);
    store_le(&info[modules + 8], uint64_t{request.initrd.size()});
    image.chunks.emplace_back(at, request.initrd);
  }
  for (size_t i = 0; i < entries; ++i) {
    uint8_t* entry = &info[map + i * kMapEntrySize];
    store_le(entry, request.memory_map[i].start.value);
    store_le(entry + 8, request.memory_map[i].size);
    store_le(entry + 16, static_cast<uint32_t>(request.memory_map[i].type));
  }
  image.chunks.emplace_back(kStartInfoAddress, std::move(info));
  std::vector<uint8_t> line(request.command_line.begin(), request.command_line.end());
  line.push_back(0);
  image.chunks.emplace_back(kCommandLineAddress, std::move(line));
  return image;
}

}  // namespace ostler::boot
