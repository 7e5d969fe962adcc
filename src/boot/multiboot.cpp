#include "boot/multiboot.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "boot/elf.h"

namespace ostler::boot {
namespace {

constexpr uint32_t kMagic = 0x1badb002, kLoaderMagic = 0x2badb002;
constexpr size_t kSearch = 8192;
constexpr uint32_t kWantsVideo = 1u << 2, kHasAddresses = 1u << 16, kUnknownMandatory = 0xffff & ~7u;
constexpr uint32_t kInfoMemory = 1u << 0, kInfoCommandLine = 1u << 2, kInfoModules = 1u << 3,
                   kInfoMap = 1u << 6, kInfoLoaderName = 1u << 9;
constexpr size_t kInfoSize = 120, kModuleSize = 16, kMapEntrySize = 24, kMostMapEntries = 64;
constexpr char kLoaderName[] = "ostler";

// The kernel's bytes for headers that carry load addresses ("a.out kludge").
Result<Chunk> load_raw(const Request& request, size_t header_offset, uint32_t& entry, uint64_t& end) {
  const auto file = request.kernel;
  if (file.size() < header_offset + 32)
    return Error(ErrorKind::kCorrupt, "its multiboot header is cut short");
  const auto word = [&](size_t at) { return load_le<uint32_t>(&file[header_offset + at]); };
  const uint32_t header_address = word(12), load_address = word(16), load_end = word(20), bss_end = word(24);
  entry = word(28);
  if (load_address > header_address || header_address - load_address > header_offset)
    return Error(ErrorKind::kCorrupt, "its multiboot load address is impossible");
  const size_t offset = header_offset - (header_address - load_address);
  const uint64_t available = file.size() - offset;
  const uint64_t size = load_end == 0 ? available : uint64_t{load_end} - load_address;
  if ((load_end != 0 && load_end < load_address) || size > available)
    return Error(ErrorKind::kCorrupt, "it is cut short: its multiboot header names more bytes than it has");
  end = std::max<uint64_t>(load_address + size, bss_end);
  if (load_address < kBelowInitrd || end > request.low_ram_end)
    return Error(
        ErrorKind::kNoResource,
        fmt::format("it loads to {:#x}..{:#x}, outside the guest's {} MiB above 1 MiB; give more with -m",
                    load_address, end, request.low_ram_end >> 20));
  return Chunk(GuestPhys{load_address}, file.subspan(offset, size), end - load_address - size);
}

}  // namespace

std::optional<size_t> find_multiboot_header(std::span<const uint8_t> file) {
  const size_t end = std::min(file.size(), kSearch);
  for (size_t at = 0; at + 12 <= end; at += 4) {
    if (load_le<uint32_t>(&file[at]) != kMagic) continue;
    const uint32_t sum = kMagic + load_le<uint32_t>(&file[at + 4]) + load_le<uint32_t>(&file[at + 8]);
    if (sum == 0) return at;
  }
  return std::nullopt;
}

Result<Image> load_multiboot(const Request& request, size_t header_offset) {
  const auto flags = load_le<uint32_t>(&request.kernel[header_offset + 4]);
  if ((flags & kUnknownMandatory) != 0)
    return Error(ErrorKind::kUnsupported, fmt::format("its multiboot header demands unknown features ({:#x})",
                                                      flags & kUnknownMandatory));
  if ((flags & kWantsVideo) != 0 && (flags & kHasAddresses) == 0 && !is_elf(request.kernel))
    return Error(ErrorKind::kUnsupported, "it demands a video mode and names no load address");

  Image image;
  image.protocol = "multiboot";
  image.entry = Entry::kProtected32;
  image.rax = kLoaderMagic;
  image.rbx = kStartInfoAddress.value;
  uint64_t kernel_end = 0;
  if ((flags & kHasAddresses) != 0) {
    uint32_t entry = 0;
    TRY_ASSIGN(Chunk chunk, load_raw(request, header_offset, entry, kernel_end));
    image.chunks.push_back(std::move(chunk));
    image.rip = entry;
  } else {
    TRY_ASSIGN(Elf elf, parse_elf(request.kernel, request.low_ram_end));
    TRY(check_segments(elf.segments));
    image.chunks = std::move(elf.segments);
    image.rip = static_cast<uint32_t>(elf.entry);
    kernel_end = elf.end;
  }
  if (request.command_line.size() >= kCommandLineSpace)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the command line of -append has {} bytes, at most {} fit",
                             request.command_line.size(), kCommandLineSpace - 1));

  // One chunk: information structure, module list, memory map, loader name.
  const size_t modules = kInfoSize, map = modules + kModuleSize;
  const size_t entries = std::min(request.memory_map.size(), kMostMapEntries);
  const size_t name = map + entries * kMapEntrySize;
  std::vector<uint8_t> info(name + sizeof kLoaderName);
  const auto at = [&](size_t offset) { return static_cast<uint32_t>(kStartInfoAddress.value + offset); };
  uint32_t present = kInfoMemory | kInfoCommandLine | kInfoMap | kInfoLoaderName;
  const uint64_t low = request.memory_map.empty() ? 0 : request.memory_map[0].size;
  store_le(&info[4], static_cast<uint32_t>(low >> 10));                                   // KiB from 0
  store_le(&info[8], static_cast<uint32_t>((request.low_ram_end - kBelowInitrd) >> 10));  // KiB from 1 MiB
  store_le(&info[16], static_cast<uint32_t>(kCommandLineAddress.value));
  if (!request.initrd.empty()) {
    TRY_ASSIGN(const GuestPhys where, place_initrd(request, kernel_end, uint64_t{1} << 32));
    present |= kInfoModules;
    store_le(&info[20], uint32_t{1});
    store_le(&info[24], at(modules));
    store_le(&info[modules], static_cast<uint32_t>(where.value));
    store_le(&info[modules + 4], static_cast<uint32_t>(where.value + request.initrd.size()));
    image.chunks.emplace_back(where, request.initrd);
  }
  store_le(&info[44], static_cast<uint32_t>(entries * kMapEntrySize));
  store_le(&info[48], at(map));
  store_le(&info[64], at(name));
  store_le(&info[0], present);
  for (size_t i = 0; i < entries; ++i) {
    uint8_t* entry = &info[map + i * kMapEntrySize];
    store_le(entry, uint32_t{kMapEntrySize - 4});
    store_le(entry + 4, request.memory_map[i].start.value);
    store_le(entry + 12, request.memory_map[i].size);
    store_le(entry + 20, static_cast<uint32_t>(request.memory_map[i].type));
  }
  std::copy(std::begin(kLoaderName), std::end(kLoaderName), info.begin() + static_cast<std::ptrdiff_t>(name));
  image.chunks.emplace_back(kStartInfoAddress, std::move(info));
  // The name of the kernel comes first on a multiboot command line.
  std::string text = request.kernel_path + (request.command_line.empty() ? "" : " ") + request.command_line;
  text.resize(std::min<size_t>(text.size(), kCommandLineSpace - 1));
  std::vector<uint8_t> line(text.begin(), text.end());
  line.push_back(0);
  image.chunks.emplace_back(kCommandLineAddress, std::move(line));
  return image;
}

}  // namespace ostler::boot
