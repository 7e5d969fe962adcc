#include "block/formats/vhdx/vhdx_header.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "block/formats/vhdx/crc32c.h"

namespace ostler::block {
namespace {

constexpr uint64_t kMegabyte = 1 << 20;

std::optional<VhdxHeader> decode(std::span<const std::byte, VhdxHeader::kBytes> bytes, uint16_t& version) {
  const std::byte* const at = bytes.data();
  if (std::memcmp(at, "head", 4) != 0 || load_le<uint32_t>(at + 4) != vhdx_checksum(bytes))
    return std::nullopt;
  VhdxHeader header;
  header.sequence = load_le<uint64_t>(at + 8);
  std::memcpy(header.file_write.data(), at + 16, 16);
  std::memcpy(header.data_write.data(), at + 32, 16);
  std::memcpy(header.log_id.data(), at + 48, 16);
  version = load_le<uint16_t>(at + 66);
  if (load_le<uint16_t>(at + 64) != 0) version = 0xffff;  // of the log
  header.log_bytes = load_le<uint32_t>(at + 68);
  header.log_offset = load_le<uint64_t>(at + 72);
  return header;
}

}  // namespace

uint32_t vhdx_checksum(std::span<const std::byte> bytes) {
  const uint32_t zero = 0;
  uint32_t sum = crc32c(bytes.data(), 4);
  sum = crc32c(&zero, sizeof zero, sum);
  return crc32c(bytes.data() + 8, bytes.size() - 8, sum);
}

Task<Result<VhdxHeader>> VhdxHeader::read(Node& file) {
  std::array<char, 8> signature;
  CO_TRY(co_await read_image(file, 0, signature.data(), signature.size()));
  if (std::memcmp(signature.data(), "vhdxfile", 8) != 0)
    co_return damaged(file, "vhdx", "its signature is missing");
  std::optional<VhdxHeader> best;
  uint16_t best_version = 0;
  for (unsigned i = 0; i < 2; ++i) {
    std::array<std::byte, kBytes> bytes;
    CO_TRY(co_await read_image(file, kOffsets[i], bytes.data(), bytes.size()));
    uint16_t version = 0;
    std::optional<VhdxHeader> header = decode(bytes, version);
    if (!header || (best && header->sequence <= best->sequence)) continue;
    best = header;
    best->place = i;
    best_version = version;
  }
  if (!best) co_return damaged(file, "vhdx", "neither of its headers has a right checksum");
  if (best_version != 1)
    co_return cannot(file, "vhdx",
                     "its header has a version that is not known; version 1 with log version 0 is supported");
  if (best->log_bytes % kMegabyte != 0 || best->log_offset % kMegabyte != 0 ||
      best->log_bytes > kMostLogBytes ||
      (best->log_bytes != 0 && (best->log_offset < kMegabyte || best->log_offset > file.size() ||
                                best->log_bytes > file.size() - best->log_offset)))
    co_return damaged(file, "vhdx",
                      fmt::format("its log of {} bytes at offset {} is not within the file", best->log_bytes,
                                  best->log_offset));
  co_return *best;
}

std::array<std::byte, VhdxHeader::kBytes> VhdxHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  std::memcpy(at, "head", 4);
  store_le<uint64_t>(at + 8, sequence);
  std::memcpy(at + 16, file_write.data(), 16);
  std::memcpy(at + 32, data_write.data(), 16);
  std::memcpy(at + 48, log_id.data(), 16);
  store_le<uint16_t>(at + 66, 1);
  store_le<uint32_t>(at + 68, log_bytes);
  store_le<uint64_t>(at + 72, log_offset);
  store_le<uint32_t>(at + 4, vhdx_checksum(bytes));
  return bytes;
}

Task<Result<void>> VhdxHeader::write(Node& file) {
  ++sequence;
  place = 1 - place;
  const auto bytes = encode();
  CO_TRY(co_await write_image(file, kOffsets[place], bytes.data(), bytes.size()));
  co_return co_await flush_image(file);
}

}  // namespace ostler::block
