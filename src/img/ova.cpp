#include "img/ova.h"

#include <fmt/format.h>

#include <algorithm>

namespace ostler::img {
namespace {

// Fields of the header: offset and length.
struct Field {
  size_t at, length;
};
constexpr Field kName = {0, 100}, kSize = {124, 12}, kChecksum = {148, 8}, kType = {156, 1},
                kPrefix = {345, 155};

unsigned char byte_at(std::span<const std::byte, kTarBlock> header, size_t at) {
  return std::to_integer<unsigned char>(header[at]);
}

std::string text_of(std::span<const std::byte, kTarBlock> header, Field field) {
  std::string text;
  for (size_t i = 0; i < field.length && byte_at(header, field.at + i) != 0; ++i)
    text += static_cast<char>(byte_at(header, field.at + i));
  return text;
}

// Octal digits, or, with the top bit set, a binary number: sizes of 8 GiB and more.
std::optional<uint64_t> number_of(std::span<const std::byte, kTarBlock> header, Field field) {
  uint64_t value = 0;
  if ((byte_at(header, field.at) & 0x80) != 0) {
    for (size_t i = 0; i < field.length; ++i) {
      const unsigned byte = i == 0 ? byte_at(header, field.at) & 0x7fu : byte_at(header, field.at + i);
      if (value >> 56 != 0) return std::nullopt;
      value = value << 8 | byte;
    }
    return value;
  }
  bool any = false;
  for (size_t i = 0; i < field.length; ++i) {
    const unsigned char c = byte_at(header, field.at + i);
    if (c == ' ' && !any) continue;
    if (c == 0 || c == ' ') break;
    if (c < '0' || c > '7') return std::nullopt;
    value = value << 3 | static_cast<unsigned>(c - '0');
    any = true;
  }
  return value;
}

}  // namespace

Result<std::optional<OvaMember>> read_tar_header(std::span<const std::byte, kTarBlock> header,
                                                 uint64_t offset, uint64_t archive_bytes) {
  if (std::ranges::all_of(header, [](std::byte b) { return b == std::byte{0}; }))
    return std::optional<OvaMember>();
  uint64_t sum = 0;
  for (size_t i = 0; i < kTarBlock; ++i) {
    const bool of_checksum = i >= kChecksum.at && i < kChecksum.at + kChecksum.length;
    sum += of_checksum ? ' ' : byte_at(header, i);
  }
  const auto checksum = number_of(header, kChecksum);
  if (!checksum || *checksum != sum)
    return Error(
        ErrorKind::kCorrupt,
        fmt::format("at offset {} there is no header of a tar archive (its checksum is wrong)", offset));
  const auto bytes = number_of(header, kSize);
  const uint64_t content = offset + kTarBlock;
  if (!bytes || content > archive_bytes || *bytes > archive_bytes - content)
    return Error(ErrorKind::kCorrupt,
                 fmt::format("the member at offset {} goes beyond the end of the archive", offset));
  OvaMember member;
  const std::string prefix = text_of(header, kPrefix);
  const unsigned char type = byte_at(header, kType.at);
  // Other types (folders, links, extended headers) have no content of a file: they get no name.
  if (type == '0' || type == 0) member.name = (prefix.empty() ? "" : prefix + "/") + text_of(header, kName);
  member.offset = content;
  member.bytes = *bytes;
  member.next = content + (*bytes + kTarBlock - 1) / kTarBlock * kTarBlock;
  return std::optional(std::move(member));
}

}  // namespace ostler::img
