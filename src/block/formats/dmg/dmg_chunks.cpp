#include "block/formats/dmg/dmg_chunks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512, kMostSectors = uint64_t{1} << 44;
constexpr uint64_t kMostListBytes = 64u << 20;
constexpr size_t kTableHeader = 204, kEntryBytes = 40;

// White space is skipped; anything else that is not base64 ends it.
std::vector<std::byte> decode_base64(std::string_view text) {
  std::vector<std::byte> bytes;
  uint32_t bits = 0;
  unsigned count = 0;
  for (const char c : text) {
    unsigned value;
    if (c >= 'A' && c <= 'Z')
      value = static_cast<unsigned>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      value = static_cast<unsigned>(c - 'a' + 26);
    else if (c >= '0' && c <= '9')
      value = static_cast<unsigned>(c - '0' + 52);
    else if (c == '+')
      value = 62;
    else if (c == '/')
      value = 63;
    else if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
      continue;
    else
      break;
    bits = (bits << 6) | value;
    if (++count == 4) {
      for (int shift = 16; shift >= 0; shift -= 8) bytes.push_back(static_cast<std::byte>(bits >> shift));
      bits = 0;
      count = 0;
    }
  }
  if (count >= 2) bytes.push_back(static_cast<std::byte>(bits >> (6 * count - 8)));
  if (count == 3) bytes.push_back(static_cast<std::byte>(bits >> 2));
  return bytes;
}

// False: an entry that describes nothing.
Result<bool> parse_entry(const std::byte* at, uint64_t first_sector, uint64_t data_offset, const Node& file,
                         DmgChunk& chunk) {
  const auto type = load_be<uint32_t>(at);
  const auto refused = [&](std::string_view name) {
    return cannot(file, "dmg",
                  fmt::format("parts of it are compressed by {}; zlib and bzip2 are supported", name));
  };
  switch (type) {
    case 0:
    case 2:  // of no interest to anybody: reads as zeros
      chunk.kind = DmgChunk::Kind::kZero;
      break;
    case 1:
      chunk.kind = DmgChunk::Kind::kRaw;
      break;
    case 0x80000004:
      return refused("ADC");
    case 0x80000005:
      chunk.kind = DmgChunk::Kind::kZlib;
      break;
    case 0x80000006:
      chunk.kind = DmgChunk::Kind::kBzip2;
      break;
    case 0x80000007:
      return refused("LZFSE");
    case 0x80000008:
      return refused("LZMA");
    case 0x7ffffffe:  // a comment
    case 0xffffffff:  // the end
      return false;
    default:
      return cannot(file, "dmg", fmt::format("it has a chunk of type {:#x}, which is not known", type));
  }
  const auto sector = load_be<uint64_t>(at + 8), sectors = load_be<uint64_t>(at + 16);
  const auto offset = load_be<uint64_t>(at + 24);
  chunk.length = load_be<uint64_t>(at + 32);
  if (sector > kMostSectors || sectors > kMostSectors || first_sector > kMostSectors)
    return damaged(file, "dmg", fmt::format("a chunk has {} sectors from {} on", sectors, sector));
  chunk.begin = (first_sector + sector) * kSector;
  chunk.bytes = sectors * kSector;
  if (sectors == 0) return false;
  if (chunk.kind == DmgChunk::Kind::kZero) {
    chunk.length = 0;
    return true;
  }
  if (offset > file.size() || data_offset > file.size() - offset ||
      chunk.length > file.size() - offset - data_offset)
    return damaged(
        file, "dmg",
        fmt::format("the chunk of {} bytes at offset {} is not within the file", chunk.length, offset));
  chunk.offset = data_offset + offset;
  const bool packed = chunk.kind != DmgChunk::Kind::kRaw;
  if (packed && (chunk.bytes > DmgChunk::kMostPacked || chunk.length > DmgChunk::kMostPacked))
    return damaged(file, "dmg",
                   fmt::format("a compressed chunk has {} bytes, {} unpacked", chunk.length, chunk.bytes));
  if (!packed && chunk.length < chunk.bytes)
    return damaged(file, "dmg",
                   fmt::format("a chunk of {} bytes has {} in the file", chunk.bytes, chunk.length));
  return true;
}

Result<void> parse_table(std::span<const std::byte> table, uint64_t data_offset, const Node& file,
                         std::vector<DmgChunk>& chunks) {
  if (table.size() < kTableHeader) return damaged(file, "dmg", "a table of chunks is cut off");
  const auto first_sector = load_be<uint64_t>(table.data() + 8);
  const auto count = load_be<uint32_t>(table.data() + 200);
  if (count > (table.size() - kTableHeader) / kEntryBytes)
    return damaged(file, "dmg", fmt::format("a table of {} chunks is cut off", count));
  for (uint32_t i = 0; i < count; ++i) {
    DmgChunk chunk;
    TRY_ASSIGN(const bool is_chunk, parse_entry(table.data() + kTableHeader + i * kEntryBytes, first_sector,
                                                data_offset, file, chunk));
    if (!is_chunk) continue;
    if (chunks.size() == DmgChunk::kMostChunks)
      return cannot(file, "dmg", fmt::format("it has more than {} chunks", DmgChunk::kMostChunks));
    chunks.push_back(chunk);
  }
  return {};
}

}  // namespace

bool DmgTrailer::recognised(std::span<const std::byte> tail) {
  return tail.size() >= kBytes && std::memcmp(tail.data() + tail.size() - kBytes, "koly", 4) == 0;
}

Result<DmgTrailer> DmgTrailer::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  if (!recognised(bytes)) return damaged(file, "dmg", "its trailer is missing");
  DmgTrailer trailer;
  trailer.data_offset = load_be<uint64_t>(bytes.data() + 24);
  trailer.list_offset = load_be<uint64_t>(bytes.data() + 216);
  trailer.list_bytes = load_be<uint64_t>(bytes.data() + 224);
  const auto segments = load_be<uint32_t>(bytes.data() + 60);
  if (segments > 1) return cannot(file, "dmg", fmt::format("it is one of {} segments", segments));
  if (trailer.list_bytes == 0)
    return cannot(file, "dmg", "it has no property list; such old images are not supported");
  if (trailer.list_bytes > kMostListBytes || trailer.list_offset > file.size() ||
      trailer.list_bytes > file.size() - trailer.list_offset)
    return damaged(file, "dmg",
                   fmt::format("its property list of {} bytes at offset {} is not within the file",
                               trailer.list_bytes, trailer.list_offset));
  return trailer;
}

// Of the list only the tables matter: <data> elements whose content begins with "mish".
Result<std::vector<DmgChunk>> parse_dmg_chunks(std::string_view list, uint64_t data_offset,
                                               const Node& file) {
  constexpr std::string_view kOpen = "<data>", kClose = "</data>";
  std::vector<DmgChunk> chunks;
  for (size_t at = list.find(kOpen); at != std::string_view::npos; at = list.find(kOpen, at)) {
    at += kOpen.size();
    const size_t end = list.find(kClose, at);
    if (end == std::string_view::npos) return damaged(file, "dmg", "its property list is cut off");
    const std::vector<std::byte> table = decode_base64(list.substr(at, end - at));
    if (table.size() >= 4 && std::memcmp(table.data(), "mish", 4) == 0)
      TRY(parse_table(table, data_offset, file, chunks));
    at = end;
  }
  if (chunks.empty()) return damaged(file, "dmg", "its property list describes no chunk");
  std::ranges::sort(chunks, {}, &DmgChunk::begin);
  for (size_t i = 1; i < chunks.size(); ++i)
    if (chunks[i].begin < chunks[i - 1].end())
      return damaged(file, "dmg",
                     fmt::format("two chunks overlap at offset {} of the disk", chunks[i].begin));
  return chunks;
}

}  // namespace ostler::block
