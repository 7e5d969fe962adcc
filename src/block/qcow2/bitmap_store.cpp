#include "block/qcow2/bitmap_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace ostler::block::qcow2 {
namespace {

constexpr size_t kFixed = 24;
constexpr uint32_t kInUse = 1, kAuto = 2, kExtraCompatible = 4;
constexpr size_t kMostName = 1023;

}  // namespace

Result<std::vector<BitmapEntry>> parse_bitmaps(std::span<const std::byte> bytes, uint32_t count,
                                               uint64_t cluster_bytes, const std::string& name) {
  std::vector<BitmapEntry> entries;
  size_t at = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const Error bad(ErrorKind::kCorrupt,
                    fmt::format("{}: entry {} of the bitmap directory is not valid", name, i), EINVAL);
    if (at > bytes.size() || bytes.size() - at < kFixed) return bad;
    const auto raw = bytes.subspan(at);
    BitmapEntry entry;
    entry.table_offset = load_be<uint64_t>(&raw[0]);
    entry.table_entries = load_be<uint32_t>(&raw[8]);
    const auto flags = load_be<uint32_t>(&raw[12]);
    const auto type = std::to_integer<uint8_t>(raw[16]);
    entry.granularity_bits = std::to_integer<uint8_t>(raw[17]);
    const size_t title = load_be<uint16_t>(&raw[18]), extra = load_be<uint32_t>(&raw[20]);
    if (extra > raw.size() - kFixed || title > raw.size() - kFixed - extra || title > kMostName ||
        type != 1 || entry.granularity_bits < kSmallestGranularity ||
        entry.granularity_bits > kLargestGranularity || (entry.table_offset & (cluster_bytes - 1)) != 0 ||
        entry.table_offset > uint64_t{1} << 56 || (flags & ~(kInUse | kAuto | kExtraCompatible)) != 0)
      return bad;
    if (extra != 0 && (flags & kExtraCompatible) == 0)
      return Error(ErrorKind::kUnsupported, fmt::format("{}: bitmap {} has data of an unknown kind", name, i),
                   ENOTSUP);
    entry.in_use = (flags & kInUse) != 0;
    entry.enabled = (flags & kAuto) != 0;
    entry.extra.assign(raw.begin() + kFixed, raw.begin() + static_cast<ptrdiff_t>(kFixed + extra));
    entry.name.assign(reinterpret_cast<const char*>(&raw[0]) + kFixed + extra, title);
    entries.push_back(std::move(entry));
    at += (kFixed + extra + title + 7) & ~size_t{7};
  }
  return entries;
}

std::vector<std::byte> serialize_bitmaps(const std::vector<BitmapEntry>& entries) {
  std::vector<std::byte> out;
  for (const BitmapEntry& each : entries) {
    const size_t at = out.size();
    out.resize((at + kFixed + each.extra.size() + each.name.size() + 7) & ~size_t{7});
    store_be<uint64_t>(&out[at], each.table_offset);
    store_be<uint32_t>(&out[at + 8], each.table_entries);
    store_be<uint32_t>(&out[at + 12], (each.in_use ? kInUse : 0) | (each.enabled ? kAuto : 0) |
                                          (each.extra.empty() ? 0 : kExtraCompatible));
    out[at + 16] = std::byte{1};
    out[at + 17] = static_cast<std::byte>(each.granularity_bits);
    store_be<uint16_t>(&out[at + 18], static_cast<uint16_t>(each.name.size()));
    store_be<uint32_t>(&out[at + 20], static_cast<uint32_t>(each.extra.size()));
    std::ranges::copy(each.extra, out.begin() + static_cast<ptrdiff_t>(at + kFixed));
    std::ranges::copy(std::as_bytes(std::span(each.name)),
                      out.begin() + static_cast<ptrdiff_t>(at + kFixed + each.extra.size()));
  }
  return out;
}

void BitmapStore::Bitmap::set(uint64_t first, uint64_t end) {
  while (first < end) {
    const uint64_t index = first / kPieceBits, piece_end = std::min(end, (index + 1) * kPieceBits);
    auto& piece = pieces[index];
    if (!piece) piece = std::make_unique<Piece>();
    for (; first < piece_end; ++first) (*piece)[first % kPieceBits / 64] |= uint64_t{1} << (first % 64);
  }
}

bool BitmapStore::Bitmap::get(uint64_t index) const {
  const auto found = pieces.find(index / kPieceBits);
  return found != pieces.end() && ((*found->second)[index % kPieceBits / 64] >> (index % 64) & 1) != 0;
}

BitmapStore::BitmapStore(uint64_t disk_bytes, std::vector<Bitmap> bitmaps)
    : disk_bytes_(disk_bytes), bitmaps_(std::move(bitmaps)), any_(!bitmaps_.empty()) {}

std::vector<BitmapInfo> BitmapStore::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<BitmapInfo> infos;
  for (const Bitmap& each : bitmaps_) {
    uint64_t bits = 0;
    for (const auto& [index, piece] : each.pieces)
      for (const uint64_t word : *piece) bits += static_cast<uint64_t>(std::popcount(word));
    BitmapInfo info;
    info.name = each.entry.name;
    info.granularity = uint64_t{1} << each.entry.granularity_bits;
    info.in_use = each.entry.in_use;
    info.enabled = each.entry.enabled;
    info.dirty_bytes = std::min(bits << each.entry.granularity_bits, disk_bytes_);
    infos.push_back(std::move(info));
  }
  return infos;
}

Result<BitmapStore::Bitmap*> BitmapStore::find_locked(const std::string& name) {
  for (Bitmap& each : bitmaps_)
    if (each.entry.name == name) return &each;
  return Error(ErrorKind::kNotFound, fmt::format("there is no bitmap '{}'", name), ENOENT);
}

Task<Result<void>> BitmapStore::add(std::string name, uint64_t granularity, bool enabled) {
  const std::lock_guard lock(mutex_);
  if (name.empty() || name.size() > kMostName)
    co_return Error(ErrorKind::kInvalidArgument, fmt::format("a bitmap's name has 1 to {} bytes", kMostName));
  if (find_locked(name))
    co_return Error(ErrorKind::kInvalidArgument, fmt::format("there is a bitmap '{}' already", name), EEXIST);
  if (!std::has_single_bit(granularity) || granularity < 512 ||
      granularity > uint64_t{1} << kLargestGranularity)
    co_return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("a bitmap's granularity is a power of two from 512 to 2G, not {}", granularity));
  if (bitmaps_.size() >= kMostBitmaps || disk_bytes_ / granularity / 8 > kMostBitmapBytes)
    co_return Error(
        ErrorKind::kNoResource,
        fmt::format("there is no room for bitmap '{}'; a larger granularity makes it smaller", name));
  Bitmap bitmap;
  bitmap.entry.name = std::move(name);
  bitmap.entry.granularity_bits = static_cast<uint8_t>(std::countr_zero(granularity));
  bitmap.entry.enabled = enabled;
  bitmaps_.push_back(std::move(bitmap));
  any_ = true;
  changed_ = true;
  co_return Result<void>();
}

Task<Result<void>> BitmapStore::remove(std::string name) {
  const std::lock_guard lock(mutex_);
  CO_TRY_ASSIGN(Bitmap* const bitmap, find_locked(name));
  bitmaps_.erase(bitmaps_.begin() + (bitmap - bitmaps_.data()));
  any_ = !bitmaps_.empty();
  changed_ = true;
  co_return Result<void>();
}

namespace {

Error unusable(const std::string& name) {
  return Error(
      ErrorKind::kState,
      fmt::format("bitmap '{}' was not stored when its image was last used; it can only be removed", name));
}

}  // namespace

Task<Result<void>> BitmapStore::clear(std::string name) {
  const std::lock_guard lock(mutex_);
  CO_TRY_ASSIGN(Bitmap* const bitmap, find_locked(name));
  if (bitmap->entry.in_use) co_return unusable(name);
  bitmap->pieces.clear();
  changed_ = true;
  co_return Result<void>();
}

Task<Result<void>> BitmapStore::enable(std::string name, bool enabled) {
  const std::lock_guard lock(mutex_);
  CO_TRY_ASSIGN(Bitmap* const bitmap, find_locked(name));
  if (bitmap->entry.in_use) co_return unusable(name);
  bitmap->entry.enabled = enabled;
  changed_ = true;
  co_return Result<void>();
}

Result<bool> BitmapStore::next_dirty(const std::string& name, uint64_t offset, uint64_t& begin,
                                     uint64_t& end) const {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(const Bitmap* const bitmap, const_cast<BitmapStore*>(this)->find_locked(name));
  if (bitmap->entry.in_use) return unusable(name);
  const unsigned bits = bitmap->entry.granularity_bits;
  const uint64_t count = (disk_bytes_ + (uint64_t{1} << bits) - 1) >> bits;
  uint64_t at = offset >> bits;
  while (at < count && !bitmap->get(at)) {
    // Pieces that are not there have no bits.
    if (const auto next = bitmap->pieces.lower_bound(at / kPieceBits); next == bitmap->pieces.end())
      at = count;
    else
      at = std::max(at + 1, next->first * kPieceBits);
  }
  if (at >= count) return false;
  begin = std::max(offset, at << bits);
  while (at < count && bitmap->get(at)) ++at;
  end = std::min(at << bits, disk_bytes_);
  return begin < end;
}

Result<void> BitmapStore::mark(const std::string& name, uint64_t offset, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  TRY_ASSIGN(Bitmap* const bitmap, find_locked(name));
  if (bitmap->entry.in_use) return unusable(name);
  offset = std::min(offset, disk_bytes_);
  bytes = std::min(bytes, disk_bytes_ - offset);
  const unsigned bits = bitmap->entry.granularity_bits;
  if (bytes != 0) bitmap->set(offset >> bits, ((offset + bytes - 1) >> bits) + 1);
  changed_ = true;
  return {};
}

void BitmapStore::written(uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || !any_) return;
  const std::lock_guard lock(mutex_);
  for (Bitmap& each : bitmaps_) {
    if (!each.entry.enabled || each.entry.in_use) continue;
    const unsigned bits = each.entry.granularity_bits;
    each.set(offset >> bits, ((offset + bytes - 1) >> bits) + 1);
    changed_ = true;
  }
}

void BitmapStore::resize(uint64_t disk_bytes) {
  const std::lock_guard lock(mutex_);
  for (Bitmap& each : bitmaps_) {
    const uint64_t count =
        (disk_bytes + (uint64_t{1} << each.entry.granularity_bits) - 1) >> each.entry.granularity_bits;
    each.pieces.erase(each.pieces.lower_bound((count + kPieceBits - 1) / kPieceBits), each.pieces.end());
    if (const auto last = each.pieces.find(count / kPieceBits); last != each.pieces.end())
      for (uint64_t bit = count; bit < (count / kPieceBits + 1) * kPieceBits; ++bit)
        (*last->second)[bit % kPieceBits / 64] &= ~(uint64_t{1} << (bit % 64));
  }
  disk_bytes_ = disk_bytes;
  if (!bitmaps_.empty()) changed_ = true;
}

bool BitmapStore::changed() const {
  const std::lock_guard lock(mutex_);
  return changed_;
}

void BitmapStore::set_stored() {
  const std::lock_guard lock(mutex_);
  changed_ = false;
}

}  // namespace ostler::block::qcow2
