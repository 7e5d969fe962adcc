#include "boot/bzimage.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "boot/decompress.h"

namespace ostler::boot {
namespace {

// Offsets in the file, which are also offsets in the zero page.
constexpr size_t kE820Count = 0x1e8, kSetupSects = 0x1f1, kHeader = 0x1f1, kBootFlag = 0x1fe, kJump = 0x200,
                 kMagic = 0x202, kVersion = 0x206, kTypeOfLoader = 0x210, kLoadFlags = 0x211,
                 kRamdiskImage = 0x218, kRamdiskSize = 0x21c, kCmdLinePtr = 0x228, kInitrdAddrMax = 0x22c,
                 kXLoadFlags = 0x236, kCmdlineSize = 0x238, kPayloadOffset = 0x248, kPayloadLength = 0x24c,
                 kPrefAddress = 0x258, kInitSize = 0x260, kHeaderEnd = 0x290;
constexpr size_t kZeroRsdp = 0x070, kZeroExtRamdiskImage = 0x0c0, kZeroExtRamdiskSize = 0x0c4,
                 kZeroE820 = 0x2d0;
constexpr size_t kZeroPageSize = 4096, kMostE820 = 128, kE820EntrySize = 20;
constexpr uint16_t kXlfKernel64 = 1, kXlfAbove4G = 2;
constexpr uint8_t kUnknownLoader = 0xff;
constexpr uint64_t kEntry64 = 0x200;  // past the start of the protected-mode part

struct Setup {
  uint16_t version;
  size_t protected_offset;  // in the file
};

Result<Setup> parse_setup(std::span<const uint8_t> file) {
  if (file.size() < kHeaderEnd) return Error(ErrorKind::kCorrupt, "its setup header is cut short");
  const size_t sectors = file[kSetupSects] == 0 ? 4 : file[kSetupSects];
  const Setup setup{load_le<uint16_t>(&file[kVersion]), (sectors + 1) * 512};
  if (setup.protected_offset >= file.size())
    return Error(ErrorKind::kCorrupt,
                 fmt::format("it is cut short, copy it again: {} bytes, but its setup part alone has {}",
                             file.size(), setup.protected_offset));
  return setup;
}

// Identity page tables of 2 MiB pages for the first 4 GiB.
Chunk identity_page_tables() {
  constexpr uint64_t kPresentWritable = 3, kLargePage = 1u << 7;
  std::vector<uint8_t> tables(6 * kPageSize);
  const auto put = [&](size_t page, size_t index, uint64_t entry) {
    store_le(&tables[page * kPageSize + index * 8], entry);
  };
  put(0, 0, (kPageTablesAddress.value + kPageSize) | kPresentWritable);
  for (size_t gib = 0; gib < 4; ++gib) {
    put(1, gib, (kPageTablesAddress.value + (2 + gib) * kPageSize) | kPresentWritable);
    for (size_t i = 0; i < 512; ++i) put(2 + gib, i, (gib << 30) | (i << 21) | kPresentWritable | kLargePage);
  }
  return Chunk(kPageTablesAddress, std::move(tables));
}

}  // namespace

bool is_bzimage(std::span<const uint8_t> file) {
  return file.size() > kMagic + 4 && load_le<uint16_t>(&file[kBootFlag]) == 0xaa55 &&
         load_le<uint32_t>(&file[kMagic]) == 0x53726448;  // "HdrS"
}

Result<Unpacked> unpack_vmlinux(std::span<const uint8_t> file, size_t most) {
  TRY_ASSIGN(const Setup setup, parse_setup(file));
  if (setup.version < 0x208)
    return Error(ErrorKind::kUnsupported,
                 "its boot protocol is older than 2.08 and does not name its payload");
  const uint64_t offset = setup.protected_offset + uint64_t{load_le<uint32_t>(&file[kPayloadOffset])};
  const uint64_t length = load_le<uint32_t>(&file[kPayloadLength]);
  if (offset > file.size() || length > file.size() - offset)
    return Error(ErrorKind::kCorrupt, fmt::format("it is cut short, copy it again: {} bytes of at least {}",
                                                  file.size(), offset + length));
  return decompress(file.subspan(offset, length), most);
}

Result<Image> load_linux64(const Request& request) {
  const auto file = request.kernel;
  TRY_ASSIGN(const Setup setup, parse_setup(file));
  if (setup.version < 0x20c || (load_le<uint16_t>(&file[kXLoadFlags]) & kXlfKernel64) == 0)
    return Error(ErrorKind::kUnsupported, "it has no 64-bit entry (boot protocol 2.12)");
  const uint64_t payload_end = setup.protected_offset + load_le<uint32_t>(&file[kPayloadOffset]) +
                               uint64_t{load_le<uint32_t>(&file[kPayloadLength])};
  if (payload_end > file.size())
    return Error(ErrorKind::kCorrupt, fmt::format("it is cut short, copy it again: {} bytes of at least {}",
                                                  file.size(), payload_end));

  const auto code = file.subspan(setup.protected_offset);
  const uint64_t start = load_le<uint64_t>(&file[kPrefAddress]);
  const uint64_t init_size = std::max<uint64_t>(load_le<uint32_t>(&file[kInitSize]), code.size());
  const uint64_t end = start + init_size;
  if (start < kBelowInitrd || end < start || end > request.low_ram_end)
    return Error(ErrorKind::kNoResource,
                 fmt::format("it needs memory up to {} MiB, the guest has {} MiB there; give more with -m",
                             (end + (1u << 20) - 1) >> 20, request.low_ram_end >> 20));
  const size_t longest = std::min<size_t>(load_le<uint32_t>(&file[kCmdlineSize]), kCommandLineSpace - 1);
  if (request.command_line.size() > longest)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the command line of -append has {} bytes, the kernel takes at most {}",
                             request.command_line.size(), longest));

  Image image;
  image.protocol = "Linux 64-bit";
  image.entry = Entry::kLong64;
  image.long_mode = true;
  image.rip = start + kEntry64;
  image.rsi = kZeroPageAddress.value;
  image.chunks.emplace_back(GuestPhys{start}, code);
  image.chunks.push_back(identity_page_tables());

  std::vector<uint8_t> zero(kZeroPageSize);
  const size_t header_end =
      std::min<size_t>(kHeaderEnd, kMagic + file[kJump + 1]);  // the jump skips the header
  std::copy(file.begin() + kHeader, file.begin() + static_cast<std::ptrdiff_t>(std::max(header_end, kHeader)),
            zero.begin() + kHeader);
  zero[kTypeOfLoader] = kUnknownLoader;
  zero[kLoadFlags] |= 1;  // loaded high
  store_le(&zero[kCmdLinePtr], static_cast<uint32_t>(kCommandLineAddress.value));
  store_le(&zero[kZeroRsdp], request.rsdp.value);
  if (!request.initrd.empty()) {
    const bool above_4g = (load_le<uint16_t>(&file[kXLoadFlags]) & kXlfAbove4G) != 0;
    const uint64_t limit =
        above_4g ? request.low_ram_end : uint64_t{load_le<uint32_t>(&file[kInitrdAddrMax])} + 1;
    TRY_ASSIGN(const GuestPhys at, place_initrd(request, end, limit));
    store_le(&zero[kRamdiskImage], static_cast<uint32_t>(at.value));
    store_le(&zero[kRamdiskSize], static_cast<uint32_t>(request.initrd.size()));
    store_le(&zero[kZeroExtRamdiskImage], static_cast<uint32_t>(at.value >> 32));
    store_le(&zero[kZeroExtRamdiskSize], static_cast<uint32_t>(request.initrd.size() >> 32));
    image.chunks.emplace_back(at, request.initrd);
  }
  const size_t entries = std::min(request.memory_map.size(), kMostE820);
  zero[kE820Count] = static_cast<uint8_t>(entries);
  for (size_t i = 0; i < entries; ++i) {
    uint8_t* entry = &zero[kZeroE820 + i * kE820EntrySize];
    store_le(entry, request.memory_map[i].start.value);
    store_le(entry + 8, request.memory_map[i].size);
    store_le(entry + 16, static_cast<uint32_t>(request.memory_map[i].type));
  }
  image.chunks.emplace_back(kZeroPageAddress, std::move(zero));
  std::vector<uint8_t> line(request.command_line.begin(), request.command_line.end());
  line.push_back(0);
  image.chunks.emplace_back(kCommandLineAddress, std::move(line));
  return image;
}

}  // namespace ostler::boot
