#include "block/formats/vhdx/vhdx_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 4096;  // of the log
constexpr uint64_t kHeaderBytes = 64, kDescriptorBytes = 32;
constexpr uint64_t kMostFileBytes = uint64_t{1} << 47;
constexpr uint64_t kMostEntryBytes = 64u << 20;

struct LogEntry {
  uint64_t at = 0;  // in the log
  uint32_t bytes = 0;
  uint32_t tail = 0;
  uint64_t sequence = 0;
  uint32_t descriptors = 0;
  uint64_t flushed_file_bytes = 0, last_file_bytes = 0;
};

class LogReader {
 public:
  LogReader(Node& file, const VhdxHeader& header)
      : file_(file), header_(header), budget_(16 * uint64_t{header.log_bytes} + (64u << 20)) {}

  // The entries to write, oldest first.
  Task<Result<std::vector<LogEntry>>> active_sequence() {
    std::vector<LogEntry> best;
    for (uint64_t tail = 0; tail < header_.log_bytes;) {
      std::vector<LogEntry> sequence;
      uint64_t head = tail, length = 0;
      for (;;) {
        CO_TRY_ASSIGN(const std::optional<LogEntry> entry, co_await entry_at(head));
        if (!entry || (!sequence.empty() && entry->sequence != sequence.back().sequence + 1)) break;
        length += entry->bytes;
        if (length > header_.log_bytes) break;
        sequence.push_back(*entry);
        head = (head + entry->bytes) % header_.log_bytes;
      }
      // It is complete if the oldest entry that its newest one needs is part of it.
      if (!sequence.empty() && (best.empty() || sequence.back().sequence > best.back().sequence)) {
        const auto oldest = std::ranges::find(sequence, sequence.back().tail, &LogEntry::at);
        if (oldest != sequence.end()) best.assign(oldest, sequence.end());
      }
      if (sequence.empty()) {
        tail += kSector;
      } else if (tail + length >= header_.log_bytes) {
        break;
      } else {
        tail += length;
      }
    }
    if (best.empty()) co_return damaged(file_, "vhdx", "its log is in use, but holds no complete entry");
    co_return best;
  }

  Task<Result<void>> apply(LogEntry entry) {
    std::vector<std::byte> bytes(entry.bytes);
    CO_TRY(co_await read_ring(entry.at, bytes.data(), bytes.size()));
    const auto wrong = [&](uint64_t offset) {
      return damaged(file_, "vhdx", fmt::format("an entry of its log writes to offset {}", offset));
    };
    uint64_t data_at = align_up(kHeaderBytes + entry.descriptors * kDescriptorBytes, kSector);
    for (uint32_t i = 0; i < entry.descriptors; ++i) {
      const std::byte* const descriptor = bytes.data() + kHeaderBytes + i * kDescriptorBytes;
      const auto offset = load_le<uint64_t>(descriptor + 16);
      const bool is_zero = std::memcmp(descriptor, "zero", 4) == 0;
      const uint64_t length = is_zero ? load_le<uint64_t>(descriptor + 8) : kSector;
      if (offset % kSector != 0 || length % kSector != 0 || offset > kMostFileBytes ||
          length > kMostFileBytes)
        co_return wrong(offset);
      if (is_zero) {
        if (length != 0) CO_TRY(co_await zero_image(file_, offset, length));
        continue;
      }
      // A data sector lacks its first 8 and last 4 bytes: they are in the descriptor.
      std::array<std::byte, kSector> sector;
      std::memcpy(sector.data(), bytes.data() + data_at, sector.size());
      std::memcpy(sector.data(), descriptor + 8, 8);
      std::memcpy(sector.data() + kSector - 4, descriptor + 4, 4);
      data_at += kSector;
      CO_TRY(co_await write_image(file_, offset, sector.data(), sector.size()));
    }
    co_return Result<void>();
  }

 private:
  // The log is a ring.
  Task<Result<void>> read_ring(uint64_t at, std::byte* to, uint64_t bytes) {
    const uint64_t first = std::min(bytes, header_.log_bytes - at);
    CO_TRY(co_await read_image(file_, header_.log_offset + at, to, first));
    if (first != bytes) CO_TRY(co_await read_image(file_, header_.log_offset, to + first, bytes - first));
    co_return Result<void>();
  }

  // The entry at `at`, if there is a whole and valid one of this log.
  Task<Result<std::optional<LogEntry>>> entry_at(uint64_t at) {
    const std::optional<LogEntry> none;
    std::array<std::byte, kHeaderBytes> head;
    CO_TRY(co_await read_image(file_, header_.log_offset + at, head.data(), head.size()));
    if (std::memcmp(head.data(), "loge", 4) != 0 ||
        std::memcmp(head.data() + 32, header_.log_id.data(), header_.log_id.size()) != 0)
      co_return none;
    LogEntry entry;
    entry.at = at;
    entry.bytes = load_le<uint32_t>(head.data() + 8);
    entry.tail = load_le<uint32_t>(head.data() + 12);
    entry.sequence = load_le<uint64_t>(head.data() + 16);
    entry.descriptors = load_le<uint32_t>(head.data() + 24);
    entry.flushed_file_bytes = load_le<uint64_t>(head.data() + 48);
    entry.last_file_bytes = load_le<uint64_t>(head.data() + 56);
    if (entry.bytes == 0 || entry.bytes % kSector != 0 || entry.bytes > header_.log_bytes ||
        entry.bytes > kMostEntryBytes || entry.tail % kSector != 0 || entry.tail >= header_.log_bytes ||
        entry.sequence == 0 || entry.descriptors > entry.bytes / kDescriptorBytes)
      co_return none;
    // A made-up log could have an entry's beginning in every sector.
    if (entry.bytes > budget_) co_return damaged(file_, "vhdx", "its log is full of entries that overlap");
    budget_ -= entry.bytes;
    std::vector<std::byte> bytes(entry.bytes);
    CO_TRY(co_await read_ring(at, bytes.data(), bytes.size()));
    if (load_le<uint32_t>(bytes.data() + 4) != vhdx_checksum(bytes) || !descriptors_valid(entry, bytes))
      co_return none;
    co_return std::optional(entry);
  }

  static bool descriptors_valid(const LogEntry& entry, const std::vector<std::byte>& bytes) {
    uint64_t data_at = align_up(kHeaderBytes + entry.descriptors * kDescriptorBytes, kSector);
    if (data_at > entry.bytes) return false;
    for (uint32_t i = 0; i < entry.descriptors; ++i) {
      const std::byte* const descriptor = bytes.data() + kHeaderBytes + i * kDescriptorBytes;
      if (load_le<uint64_t>(descriptor + 24) != entry.sequence) return false;
      if (std::memcmp(descriptor, "zero", 4) == 0) continue;
      if (std::memcmp(descriptor, "desc", 4) != 0 || data_at + kSector > entry.bytes) return false;
      const std::byte* const data = bytes.data() + data_at;
      const uint64_t sequence =
          (uint64_t{load_le<uint32_t>(data + 4)} << 32) | load_le<uint32_t>(data + kSector - 4);
      if (std::memcmp(data, "data", 4) != 0 || sequence != entry.sequence) return false;
      data_at += kSector;
    }
    return true;
  }

  Node& file_;
  const VhdxHeader header_;
  uint64_t budget_;  // bytes of entries that are still looked at
};

}  // namespace

Task<Result<void>> replay_vhdx_log(Node& file, VhdxHeader header) {
  LogReader reader(file, header);
  CO_TRY_ASSIGN(const std::vector<LogEntry> entries, co_await reader.active_sequence());
  const LogEntry& newest = entries.back();
  if (newest.flushed_file_bytes > file.size())
    co_return damaged(file, "vhdx",
                      fmt::format("the file has {} bytes, {} were there when its log was written",
                                  file.size(), newest.flushed_file_bytes));
  if (newest.last_file_bytes > kMostFileBytes)
    co_return damaged(file, "vhdx",
                      fmt::format("its log wants the file to have {} bytes", newest.last_file_bytes));
  for (const LogEntry& entry : entries) CO_TRY(co_await reader.apply(entry));
  if (newest.last_file_bytes > file.size())
    CO_TRY(co_await file.truncate(newest.last_file_bytes, Preallocation::kOff));
  co_return co_await flush_image(file);
}

}  // namespace ostler::block
