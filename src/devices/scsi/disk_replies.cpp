// What a disk tells of itself: capacity, limits, mode pages (SBC-3 §5, §6).
#include <algorithm>
#include <bit>

#include "devices/scsi/disk.h"

namespace ostler::scsi {
namespace {

constexpr uint8_t kErrorRecovery = 0x01, kCaching = 0x08, kControl = 0x0a, kAllPages = 0x3f;
constexpr uint8_t kAllSubpages = 0xff;
constexpr size_t kBlockDescriptor = 8;

unsigned physical_exponent(const Options& options) {
  return static_cast<unsigned>(std::max(
      0, std::countr_zero(options.physical_block_size) - std::countr_zero(options.logical_block_size)));
}

}  // namespace

void Disk::read_capacity_10(const Handle& command) {
  if ((command->byte(8) & 1) == 0 && command->field(2, 4) != 0) return fail(command, sense::kInvalidField);
  Bytes data(8);
  put(data, 0, std::min<uint64_t>(std::max<uint64_t>(blocks(), 1) - 1, 0xffff'ffff), 4);
  put(data, 4, block_, 4);
  reply(command, data, 8);
}

void Disk::read_capacity_16(const Handle& command) {
  if ((command->byte(14) & 1) == 0 && command->field(2, 8) != 0) return fail(command, sense::kInvalidField);
  Bytes data(32);
  put(data, 0, std::max<uint64_t>(blocks(), 1) - 1, 8);
  put(data, 8, block_, 4);
  put(data, 13, physical_exponent(options()));
  if (thin()) put(data, 14, 0x80);  // UNMAP is known; what it leaves is unspecified
  reply(command, data, command->field(10, 4));
}

std::optional<Bytes> Disk::product_data(uint8_t page) const {
  if (page == 0xb0) {  // block limits; offsets from the fifth byte
    Bytes data(60);
    put(data, 0, 1);  // WRITE SAME of 0 blocks is refused
    put(data, 2, std::min<uint32_t>(options().min_io_size / block_, 0xffff), 2);
    put(data, 8, options().opt_io_size / block_, 4);
    if (thin()) {
      put(data, 16, most_unmap_blocks(), 4);
      put(data, 20, kMostUnmapRanges, 4);
      put(data, 24, std::max(options().discard_granularity / block_, 1u), 4);
    }
    if (!node_->read_only()) put(data, 32, kMostWriteSameBytes / block_, 8);
    return data;
  }
  if (page == 0xb1) {  // characteristics
    Bytes data(60);
    put(data, 0, options().rotation_rate, 2);
    return data;
  }
  if (page == 0xb2) {  // provisioning: UNMAP, WRITE SAME (16) and (10); thin
    Bytes data(4);
    if (!thin()) return data;
    put(data, 1, 0xe0);
    put(data, 2, 2);
    return data;
  }
  return std::nullopt;
}

Bytes Disk::mode_page(uint8_t page) const {
  if (page == kErrorRecovery) {
    Bytes data(12);
    put(data, 0, page);
    put(data, 1, data.size() - 2);
    put(data, 2, 0xc0);  // bad places are replaced
    return data;
  }
  if (page == kCaching) {
    Bytes data(20);
    put(data, 0, page);
    put(data, 1, data.size() - 2);
    put(data, 2, writeback_ ? 4 : 0);  // WCE
    return data;
  }
  if (page == kControl) {
    Bytes data(12);
    put(data, 0, page);
    put(data, 1, data.size() - 2);
    put(data, 3, 0x10);  // commands may be reordered
    return data;
  }
  return {};
}

// The mask of what can be set: WCE.
Bytes Disk::changeable(Bytes page) {
  const bool caching = std::to_integer<uint8_t>(page[0]) == kCaching;
  std::fill(page.begin() + 2, page.end(), std::byte{0});
  if (caching) put(page, 2, 4);
  return page;
}

// SPC-4 §6.11, §6.12.
void Disk::mode_sense(const Handle& command, bool ten) {
  const uint8_t asked = command->byte(2) & 0x3f, subpage = command->byte(3);
  const unsigned values = command->byte(2) >> 6;  // current, changeable, default, saved
  if (values == 3) return fail(command, sense::kSavingUnsupported);
  if (subpage != 0 && (subpage != kAllSubpages || asked != kAllPages))
    return fail(command, sense::kInvalidField);
  const bool with_descriptor = (command->byte(1) & 8) == 0;
  const size_t header = ten ? 8 : 4;
  Bytes data(header);
  put(data, ten ? 3 : 2, (node_->read_only() ? 0x80u : 0u) | (options().dpofua ? 0x10u : 0u));
  if (with_descriptor) {
    put(data, ten ? 6 : 3, kBlockDescriptor, ten ? 2 : 1);
    data.resize(header + kBlockDescriptor);
    if (values != 1) {
      put(data, header, std::min<uint64_t>(blocks(), 0xffff'ffff), 4);
      put(data, header + 5, block_, 3);
    }
  }
  bool any = false;
  for (const uint8_t each : {kErrorRecovery, kCaching, kControl}) {
    if (asked != kAllPages && asked != each) continue;
    any = true;
    Bytes page = mode_page(each);
    if (values == 1) page = changeable(std::move(page));
    if (values == 2 && each == kCaching) put(page, 2, initial_writeback() ? 4 : 0);
    data.insert(data.end(), page.begin(), page.end());
  }
  if (!any) return fail(command, sense::kInvalidField);
  put(data, 0, data.size() - (ten ? 2 : 1), ten ? 2 : 1);
  reply(command, data, ten ? command->field(7, 2) : command->byte(4));
}

// SPC-4 §6.9, §6.10: the write cache goes on and off; all else must be as it is.
void Disk::mode_select(const Handle& command, bool ten) {
  constexpr size_t kMostBytes = 256;  // all pages, with header and descriptor, are fewer
  // SP, and pages of a vendor's format.
  if ((command->byte(1) & 1) != 0 || (command->byte(1) & 0x10) == 0)
    return fail(command, sense::kInvalidField);
  const uint64_t length = ten ? command->field(7, 2) : command->byte(4);
  if (length == 0) return good(command);
  const size_t header = ten ? 8 : 4;
  if (length < header || length > kMostBytes) return fail(command, sense::kParameterListLength);
  command->overrun = length > command->out_bytes;
  if (command->overrun) return good(command);
  const Bytes list = command->sent(length);
  const uint64_t descriptors = big_endian(list, ten ? 6 : 3, ten ? 2 : 1);
  if (descriptors != 0 && descriptors != kBlockDescriptor) return fail(command, sense::kInvalidParameter);
  bool writeback = writeback_;
  size_t at = header + descriptors;
  if (at > length) return fail(command, sense::kParameterListLength);
  if (descriptors != 0 && big_endian(list, header + 5, 3) != block_)
    return fail(command, sense::kInvalidParameter);
  while (at < length) {
    const Bytes now = mode_page(static_cast<uint8_t>(big_endian(list, at, 1) & 0x3f));
    if (now.empty() || (big_endian(list, at, 1) & 0xc0) != 0) return fail(command, sense::kInvalidParameter);
    if (length - at < now.size()) return fail(command, sense::kParameterListLength);
    const Bytes mask = changeable(now);
    for (size_t i = 1; i < now.size(); ++i)
      if (((list[at + i] ^ now[i]) & (i == 1 ? std::byte{0xff} : ~mask[i])) != std::byte{0})
        return fail(command, sense::kInvalidParameter);
    if (big_endian(now, 0, 1) == kCaching) writeback = (list[at + 2] & std::byte{4}) != std::byte{0};
    at += now.size();
  }
  command->transferred = length;
  const bool turned_off = writeback_.exchange(writeback) && !writeback;
  if (turned_off) return flush(command);
  good(command);
}

}  // namespace ostler::scsi
