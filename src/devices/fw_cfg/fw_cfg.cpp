#include "devices/fw_cfg/fw_cfg.h"

#include <algorithm>

#include "base/assert.h"
#include "base/bytes.h"

namespace ostler::devices {
namespace {

constexpr uint64_t kDmaSignature = 0x51454d5520434647;  // "QEMU CFG"
constexpr uint32_t kHasDma = 2, kHasPorts = 1;
constexpr uint32_t kDmaError = 1, kDmaRead = 2, kDmaSkip = 4, kDmaSelect = 8, kDmaWrite = 16;
constexpr size_t kLongestName = 55;
constexpr uint16_t kKeyMask = 0x3fff;  // the upper bits choose write and architecture spaces, which are empty

struct DmaDescriptor {  // big-endian in memory
  uint32_t control, length;
  uint64_t address;
};

void append_be(std::vector<uint8_t>& out, uint64_t value, unsigned bytes) {
  for (unsigned i = bytes; i-- > 0;) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace

FwCfg::FwCfg(memory::AddressSpace& space) : dma_(space) {
  set(kSignature, {'Q', 'E', 'M', 'U'});
  set_number(kId, uint32_t{kHasPorts | kHasDma});
  rebuild_directory();
}

void FwCfg::set(uint16_t key, std::vector<uint8_t> bytes) {
  const std::lock_guard lock(mutex_);
  items_[key] = std::move(bytes);
}

void FwCfg::add_file(std::string name, std::vector<uint8_t> bytes) {
  ASSERT(name.size() <= kLongestName, "the machine's own file names are short");
  set(static_cast<uint16_t>(kFirstFile + file_names_.size()), std::move(bytes));
  file_names_.push_back(std::move(name));
  rebuild_directory();
}

void FwCfg::rebuild_directory() {
  std::vector<uint8_t> directory;
  append_be(directory, file_names_.size(), 4);
  for (size_t i = 0; i < file_names_.size(); ++i) {
    const auto key = static_cast<uint16_t>(kFirstFile + i);
    append_be(directory, items_[key].size(), 4);
    append_be(directory, key, 2);
    append_be(directory, 0, 2);
    std::string padded = file_names_[i];
    padded.resize(kLongestName + 1);
    directory.insert(directory.end(), padded.begin(), padded.end());
  }
  set(kFileDirectory, std::move(directory));
}

const std::vector<uint8_t>& FwCfg::item() const {
  static const std::vector<uint8_t> empty;
  const auto found = items_.find(selected_);
  return found == items_.end() ? empty : found->second;
}

uint8_t FwCfg::next_byte() {
  const auto& bytes = item();
  return offset_ < bytes.size() ? bytes[offset_++] : uint8_t{0};
}

uint64_t FwCfg::io_read(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  if (offset == 1 && size == 1) return next_byte();
  // The DMA register reads as its signature, most significant byte first.
  if (offset >= 4 && offset + size <= kPorts) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; ++i)
      value |= bits(kDmaSignature, static_cast<unsigned>(8 * (7 - (offset - 4 + i))), 8) << (8 * i);
    return value;
  }
  return 0;
}

void FwCfg::io_write(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  if (offset == 0 && size == 2) {
    selected_ = static_cast<uint16_t>(value) & kKeyMask;
    offset_ = 0;
  } else if (offset == 4 && size == 8) {
    dma_address_ = __builtin_bswap64(value);
    run_dma();
  } else if (offset == 4 && size == 4) {
    dma_address_ = uint64_t{__builtin_bswap32(static_cast<uint32_t>(value))} << 32;
  } else if (offset == 8 && size == 4) {
    dma_address_ |= __builtin_bswap32(static_cast<uint32_t>(value));
    run_dma();
  }
}

void FwCfg::run_dma() {
  const GuestPhys descriptor_at{std::exchange(dma_address_, 0)};
  const auto raw = dma_.read_le<DmaDescriptor>(descriptor_at);
  if (!raw) return;  // nowhere to report to
  const uint32_t control = __builtin_bswap32(raw->control);
  uint64_t length = __builtin_bswap32(raw->length);
  const GuestPhys address{__builtin_bswap64(raw->address)};
  if ((control & kDmaSelect) != 0) {
    selected_ = static_cast<uint16_t>(control >> 16) & kKeyMask;
    offset_ = 0;
  }
  bool ok = true;
  if ((control & kDmaRead) != 0) {
    const auto& bytes = item();
    const uint64_t available =
        std::min<uint64_t>(length, bytes.size() - std::min<uint64_t>(offset_, bytes.size()));
    ok = dma_.accessible(address, length, memory::Direction::kToGuest) &&
         dma_.write(
             address,
             std::as_bytes(std::span(bytes)).subspan(std::min<uint64_t>(offset_, bytes.size()), available)) &&
         dma_.fill(address + available, length - available, std::byte{0});
    if (ok) offset_ += available;
  } else if ((control & kDmaWrite) != 0) {
    ok = false;  // every item is read-only
  } else if ((control & kDmaSkip) != 0) {
    offset_ = std::min<uint64_t>(offset_ + length, item().size());
  }
  static_cast<void>(dma_.write_le(descriptor_at, __builtin_bswap32(ok ? 0 : kDmaError)));
}

void FwCfg::reset() {
  const std::lock_guard lock(mutex_);
  selected_ = 0;
  offset_ = 0;
  dma_address_ = 0;
}

void FwCfg::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("fw_cfg", 1);
  archive.field("selected", selected_);
  archive.field("offset", offset_);
  archive.field("dma_address", dma_address_);
}

}  // namespace ostler::devices
