// Bitmaps in the image: read when it is opened, marked as being in use before the first write, stored when it
// is closed.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/checker.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Bitmaps* Qcow2Node::bitmaps() {
  return header_.version < 3 ? nullptr : bitmaps_.get();
}

Task<Result<void>> Qcow2Node::load_bitmaps() {
  bitmaps_ = std::make_unique<BitmapStore>(size());
  if (header_.bitmaps.count == 0) co_return Result<void>();
  if ((header_.autoclear & kBitmapsConsistent) == 0) {
    log::warning(filename() +
                 ": its bitmaps are out of date, as another program wrote the image; they are dropped");
    header_.bitmaps = {};
    co_return Result<void>();
  }
  const Header::Bitmaps& where = header_.bitmaps;
  if (where.count > kMostBitmaps || where.directory_bytes > kMostDirectoryBytes ||
      (where.directory_offset & cluster_mask()) != 0 || where.directory_offset >= file_->size())
    co_return Error(ErrorKind::kCorrupt,
                    fmt::format("{}: the bitmap directory is at {:#x} with {} bytes", filename(),
                                where.directory_offset, where.directory_bytes),
                    EINVAL);
  std::vector<std::byte> bytes(std::min(where.directory_bytes, file_->size() - where.directory_offset));
  int error = co_await read_bytes(*file_, where.directory_offset, bytes.data(), bytes.size());
  if (error != 0) co_return failed("the bitmap directory cannot be read", error);
  CO_TRY_ASSIGN(std::vector<BitmapEntry> entries,
                parse_bitmaps(bytes, where.count, cluster_bytes_, filename()));
  std::vector<BitmapStore::Bitmap> bitmaps;
  uint64_t total = 0;
  for (BitmapEntry& entry : entries) {
    BitmapStore::Bitmap bitmap;
    const uint64_t bits = (size() + (uint64_t{1} << entry.granularity_bits) - 1) >> entry.granularity_bits;
    const uint64_t clusters = ((bits + 7) / 8 + cluster_mask()) >> cluster_bits_;
    total += (bits + 7) / 8;
    if (total > kMostBitmapBytes)
      co_return Error(ErrorKind::kUnsupported, filename() + ": its bitmaps are too large", ENOTSUP);
    if (!entry.in_use && entry.table_entries != clusters)
      co_return Error(ErrorKind::kCorrupt,
                      fmt::format("{}: bitmap '{}' has a table of {} entries and not {}", filename(),
                                  entry.name, entry.table_entries, clusters),
                      EINVAL);
    bitmap.entry = std::move(entry);
    if (!bitmap.entry.in_use) CO_TRY(co_await load_bitmap(bitmap, bits));
    bitmaps.push_back(std::move(bitmap));
  }
  bitmaps_ = std::make_unique<BitmapStore>(size(), std::move(bitmaps));
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::load_bitmap(BitmapStore::Bitmap& bitmap, uint64_t bits) {
  TopTable table;
  CO_TRY(
      co_await read_table(table, bitmap.entry.table_offset, bitmap.entry.table_entries, "table of a bitmap"));
  const AlignedBuffer cluster(cluster_bytes_);
  if (!cluster) co_return failed("a bitmap cannot be read", -ENOMEM);
  for (uint64_t i = 0; i < table.words.size(); ++i) {
    const uint64_t word = table.get(i), offset = word & kOffsetMask;
    const uint64_t first = i * cluster_bytes_ * 8, end = std::min(bits, first + cluster_bytes_ * 8);
    if (offset == 0) {
      if ((word & 1) != 0) bitmap.set(first, end);
      continue;
    }
    if ((offset & cluster_mask()) != 0)
      co_return Error(
          ErrorKind::kCorrupt,
          fmt::format("{}: a cluster of bitmap '{}' is at {:#x}", filename(), bitmap.entry.name, offset),
          EINVAL);
    const int error = co_await read_bytes(*file_, offset, cluster.data(), cluster_bytes_);
    if (error != 0) co_return failed("a bitmap cannot be read", error);
    for (uint64_t bit = first; bit < end; bit += 64) {
      const auto value = load_le<uint64_t>(cluster.data() + (bit - first) / 8);
      for (uint64_t k = 0; value != 0 && k < 64 && bit + k < end; ++k)
        if ((value >> k & 1) != 0) bitmap.set(bit + k, bit + k + 1);
    }
  }
  co_return Result<void>();
}

// The directory says that bitmaps in memory are newer than those in the file.
Task<int> Qcow2Node::mark_bitmaps_in_use() {
  if (!bitmaps_ || header_.bitmaps.count == 0) co_return 0;
  std::vector<std::byte> bytes(header_.bitmaps.directory_bytes);
  int error = co_await read_bytes(*file_, header_.bitmaps.directory_offset, bytes.data(), bytes.size());
  if (error != 0) co_return error;
  auto entries = parse_bitmaps(bytes, header_.bitmaps.count, cluster_bytes_, filename());
  if (!entries) co_return -EIO;
  for (BitmapEntry& each : *entries) each.in_use = true;
  bytes = serialize_bitmaps(*entries);
  if (bytes.size() > header_.bitmaps.directory_bytes) co_return -EIO;
  error = co_await write_bytes(*file_, header_.bitmaps.directory_offset, bytes.data(), bytes.size());
  if (error != 0) co_return error;
  co_return co_await file_->flush();
}

Task<Result<void>> Qcow2Node::store_bitmaps() {
  if (!bitmaps_ || !bitmaps_->changed()) {
    // Marked as in use although nothing changed them.
    if (!bitmaps_ || !prepared_ || header_.bitmaps.count == 0) co_return Result<void>();
  }
  if (const int error = co_await prepare_first_write(); error != 0)
    co_return failed("its bitmaps cannot be stored", error);
  // What the file has now goes once the new ones are there.
  std::vector<GivenUp> old;
  CO_TRY(co_await collect_bitmap_clusters(old));
  std::vector<BitmapEntry> entries;
  for (const BitmapStore::Bitmap& each : bitmaps_->all()) {
    if (each.entry.in_use) {
      entries.push_back(each.entry);
      continue;
    }
    BitmapEntry entry = each.entry;
    CO_TRY(co_await write_bitmap(each, entry));
    entries.push_back(std::move(entry));
  }
  Header next = header_;
  next.bitmaps = {};
  const std::vector<std::byte> bytes = serialize_bitmaps(entries);
  int error = 0;
  if (!entries.empty()) {
    uint64_t offset;
    error = co_await allocate_metadata(bytes.size(), offset);
    if (error == 0) error = co_await write_bytes(*file_, offset, bytes.data(), bytes.size());
    next.bitmaps = {static_cast<uint32_t>(entries.size()), bytes.size(), offset};
    next.autoclear |= kBitmapsConsistent;
  } else {
    next.autoclear &= ~uint64_t{kBitmapsConsistent};
  }
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("its bitmaps cannot be stored", error);
  header_.bitmaps = next.bitmaps;
  header_.autoclear = next.autoclear;
  CO_TRY(co_await write_header());
  error = co_await file_->flush();
  if (error != 0) co_return failed("its bitmaps cannot be stored", error);
  for (size_t i = 0; i < entries.size(); ++i) bitmaps_->all()[i].entry = entries[i];
  bitmaps_->set_stored();
  const std::lock_guard lock(mutex_);
  given_up_.insert(given_up_.end(), old.begin(), old.end());
  co_return Result<void>();
}

Task<Result<void>> Qcow2Node::write_bitmap(const BitmapStore::Bitmap& bitmap, BitmapEntry& entry) {
  const uint64_t bits = (size() + (uint64_t{1} << entry.granularity_bits) - 1) >> entry.granularity_bits;
  const uint64_t per_cluster = cluster_bytes_ * 8;
  std::vector<uint64_t> table((bits + per_cluster - 1) / per_cluster);
  const AlignedBuffer cluster(cluster_bytes_);
  if (!cluster) co_return failed("a bitmap cannot be stored", -ENOMEM);
  int error = 0;
  for (uint64_t i = 0; i < table.size() && error == 0; ++i) {
    std::fill_n(cluster.data(), cluster_bytes_, std::byte{0});
    bool any = false;
    const uint64_t first = i * per_cluster, end = std::min(bits, first + per_cluster);
    for (uint64_t at = first; at < end; at += 64) {
      const auto piece = bitmap.pieces.find(at / BitmapStore::kPieceBits);
      if (piece == bitmap.pieces.end()) continue;
      const uint64_t word = (*piece->second)[at % BitmapStore::kPieceBits / 64];
      store_le(cluster.data() + (at - first) / 8, word);
      any |= word != 0;
    }
    if (!any) continue;
    uint64_t offset;
    error = co_await allocate_metadata(cluster_bytes_, offset);
    if (error == 0) error = co_await write_bytes(*file_, offset, cluster.data(), cluster_bytes_);
    store_be<uint64_t>(&table[i], offset);
  }
  entry.table_entries = static_cast<uint32_t>(table.size());
  entry.table_offset = 0;
  if (error == 0 && !table.empty()) {
    error = co_await allocate_metadata(table.size() * 8, entry.table_offset);
    if (error == 0) error = co_await write_bytes(*file_, entry.table_offset, table.data(), table.size() * 8);
  }
  if (error != 0) co_return failed("a bitmap cannot be stored", error);
  co_return Result<void>();
}

// Clusters of the directory in the file, and of tables and bitmaps that are to be written anew.
Task<Result<void>> Qcow2Node::collect_bitmap_clusters(std::vector<GivenUp>& clusters) {
  const Header::Bitmaps where = header_.bitmaps;
  if (where.count == 0) co_return Result<void>();
  std::vector<std::byte> bytes(where.directory_bytes);
  const int error = co_await read_bytes(*file_, where.directory_offset, bytes.data(), bytes.size());
  if (error != 0) co_return failed("the bitmap directory cannot be read", error);
  CO_TRY_ASSIGN(const std::vector<BitmapEntry> entries,
                parse_bitmaps(bytes, where.count, cluster_bytes_, filename()));
  clusters.push_back({where.directory_offset >> cluster_bits_,
                      (where.directory_bytes + cluster_mask()) >> cluster_bits_, false});
  for (const BitmapEntry& each : entries) {
    const bool kept = bitmaps_ && std::ranges::any_of(bitmaps_->all(), [&](const BitmapStore::Bitmap& now) {
                        return now.entry.in_use && now.entry.name == each.name;
                      });
    if (kept || each.table_entries == 0) continue;
    TopTable table;
    CO_TRY(co_await read_table(table, each.table_offset, each.table_entries, "table of a bitmap"));
    for (uint64_t i = 0; i < table.words.size(); ++i)
      if (const uint64_t offset = table.get(i) & kOffsetMask; offset != 0)
        clusters.push_back({offset >> cluster_bits_, 1, false});
    clusters.push_back({each.table_offset >> cluster_bits_,
                        (each.table_entries * uint64_t{8} + cluster_mask()) >> cluster_bits_, false});
  }
  co_return Result<void>();
}

void Qcow2Node::add_bitmap_info(nlohmann::json& data) const {
  if (!bitmaps_ || bitmaps_->all().empty()) return;
  nlohmann::json list = nlohmann::json::array();
  for (const BitmapStore::Bitmap& each : bitmaps_->all()) {
    nlohmann::json flags = nlohmann::json::array();
    if (each.entry.in_use) flags.push_back("in-use");
    if (each.entry.enabled) flags.push_back("auto");
    nlohmann::json one;
    one["flags"] = flags;
    one["name"] = each.entry.name;
    one["granularity"] = uint64_t{1} << each.entry.granularity_bits;
    list.push_back(one);
  }
  data["bitmaps"] = list;
}

Task<Result<void>> RefcountCheck::walk_bitmaps() {
  const Header::Bitmaps where = image_.header_.bitmaps;
  if (where.count == 0 || (image_.header_.autoclear & kBitmapsConsistent) == 0) co_return Result<void>();
  mark(where.directory_offset, where.directory_bytes, "the bitmap directory");
  const uint64_t file_end = file_clusters_ << image_.cluster_bits_;
  if (where.directory_bytes > kMostDirectoryBytes || where.directory_offset >= file_end)
    co_return Result<void>();
  std::vector<std::byte> bytes(where.directory_bytes);
  const int error = co_await read_bytes(*image_.file_, where.directory_offset, bytes.data(), bytes.size());
  if (error != 0) co_return image_.failed("the bitmap directory cannot be read", error);
  const auto entries = parse_bitmaps(bytes, where.count, image_.cluster_bytes_, image_.filename());
  if (!entries) {
    tell("ERROR: {}", entries.error().message());
    corruption();
    co_return Result<void>();
  }
  for (const BitmapEntry& each : *entries) {
    if (each.table_entries == 0) continue;
    const uint64_t length = each.table_entries * uint64_t{8};
    mark(each.table_offset, length, "a bitmap's table");
    if (each.table_offset >= file_end || length > file_end - each.table_offset) continue;
    TopTable table;
    CO_TRY(co_await image_.read_table(table, each.table_offset, each.table_entries, "table of a bitmap"));
    for (uint64_t i = 0; i < table.words.size(); ++i) {
      const uint64_t offset = table.get(i) & kOffsetMask;
      if (offset == 0) continue;
      if ((offset & image_.cluster_mask()) != 0) {
        tell("ERROR: a cluster of bitmap '{}' is at {:#x}", each.name, offset);
        corruption();
        continue;
      }
      mark(offset, image_.cluster_bytes_, "a bitmap's cluster");
    }
  }
  co_return Result<void>();
}

}  // namespace ostler::block::qcow2
