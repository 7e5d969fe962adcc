#include "block/formats/vmdk/vmdk_extent.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
constexpr size_t kMarkerBytes = 12;  // sector of the disk (8), bytes of deflated content (4)
constexpr uint32_t kZeroedGrain = 1;

// The header of a stream whose directory is at its end: in the third sector from there, before the
// end-of-stream marker.
Task<Result<VmdkExtentHeader>> read_footer(Node& file) {
  const uint64_t size = file.size();
  if (size < 4 * kSector) co_return damaged(file, "vmdk", "it has no footer; the file is incomplete");
  std::array<std::byte, VmdkExtentHeader::kBytes> bytes;
  CO_TRY(co_await read_image(file, size / kSector * kSector - 2 * kSector, bytes.data(), bytes.size()));
  auto header = VmdkExtentHeader::parse(bytes, file);
  if (!header) co_return std::move(header).error().with_context("footer");
  if (header->directory == VmdkExtentHeader::kDirectoryAtEnd)
    co_return damaged(file, "vmdk", "its footer does not tell where the grain directory is");
  co_return header;
}

}  // namespace

Task<Result<std::shared_ptr<VmdkExtent>>> VmdkExtent::open(NodePtr file, bool read_only) {
  std::array<std::byte, VmdkExtentHeader::kBytes> bytes;
  CO_TRY(co_await read_image(*file, 0, bytes.data(), bytes.size()));
  CO_TRY_ASSIGN(VmdkExtentHeader header, VmdkExtentHeader::parse(bytes, *file));
  if (header.directory == VmdkExtentHeader::kDirectoryAtEnd) {
    CO_TRY_ASSIGN(const VmdkExtentHeader footer, co_await read_footer(*file));
    if (footer.capacity != header.capacity || footer.grain != header.grain || footer.flags != header.flags)
      co_return damaged(*file, "vmdk", "its header and its footer contradict each other");
    if (!read_only)
      co_return cannot(*file, "vmdk",
                       "a stream-optimized image with a footer can only be read; convert it first");
    const uint64_t descriptor = header.descriptor_offset;
    header = footer;
    header.descriptor_offset = descriptor;
  }
  auto node = std::make_shared<VmdkExtent>(read_only);
  node->header_ = header;
  node->set_geometry(header.capacity * kSector, header.grain * kSector);
  CO_TRY(node->attach_file(std::move(file)));
  co_return node;
}

Task<int> VmdkExtent::table_of(uint64_t cluster, uint64_t directory, uint64_t& offset) {
  uint32_t sector = 0;
  const uint64_t entry = directory * kSector + cluster / header_.table_entries * 4;
  const int error = co_await tables_.read(image(), entry, &sector, sizeof sector);
  if (error != 0) co_return error;
  offset = sector * kSector;
  if (offset != 0 && offset + header_.table_entries * 4 > image().size()) co_return -EIO;
  co_return 0;
}

Task<int> VmdkExtent::find(uint64_t cluster, Place& place) {
  place = {};
  uint64_t table = 0;
  const uint64_t index = cluster % header_.table_entries;
  int error = co_await table_of(cluster, header_.directory, table);
  if (error != 0 || table == 0) {
    place.clusters = header_.table_entries - index;
    co_return error;
  }
  uint32_t sector = 0;
  error = co_await tables_.read(image(), table + index * 4, &sector, sizeof sector);
  if (error != 0) co_return error;
  if (sector == 0) co_return 0;
  if (sector == kZeroedGrain && (header_.flags & VmdkExtentHeader::kFlagZeroedGrains) != 0) {
    place.kind = Place::Kind::kZero;
    co_return 0;
  }
  place.offset = sector * kSector;
  const uint64_t end = image().size();
  if (place.offset >= end) co_return -EIO;
  if (header_.compressed()) {
    place.kind = Place::Kind::kCompressed;
    place.packed_bytes = static_cast<uint32_t>(std::min(cluster_bytes(), end - place.offset));
    co_return 0;
  }
  place.kind = Place::Kind::kData;
  // A last grain may be cut short; new ones go behind the next multiple of a grain.
  if (place.offset % cluster_bytes() != 0 && place.offset + cluster_bytes() > align_up(end, cluster_bytes()))
    co_return -EIO;
  co_return 0;
}

Task<Result<void>> VmdkExtent::prepare_writing() {
  next_ = align_up(image().size(), header_.compressed() ? kSector : cluster_bytes());
  co_return Result<void>();
}

Task<int> VmdkExtent::reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) {
  count = std::min(count, header_.table_entries - cluster % header_.table_entries);
  if ((next_ + count * cluster_bytes()) / kSector > 0xffffffff) co_return -EFBIG;
  offset = next_;
  co_return 0;
}

Task<int> VmdkExtent::need_table(uint64_t cluster, uint64_t directory, uint64_t& offset) {
  int error = co_await table_of(cluster, directory, offset);
  if (error != 0 || offset != 0) co_return error;
  const uint64_t bytes =
      align_up(header_.table_entries * 4, header_.compressed() ? kSector : cluster_bytes());
  if ((next_ + bytes) / kSector > 0xffffffff) co_return -EFBIG;
  offset = next_;
  error = co_await tables_.clear_in_file(image(), offset, bytes);
  if (error != 0) co_return error;
  next_ += bytes;
  const auto sector = static_cast<uint32_t>(offset / kSector);
  const uint64_t entry = directory * kSector + cluster / header_.table_entries * 4;
  co_return co_await tables_.change(image(), entry, &sector, sizeof sector);
}

// The entries lie in one table, and in the redundant one, which is for repairs only.
Task<int> VmdkExtent::write_entries(uint64_t cluster, const std::vector<uint32_t>& entries) {
  const uint64_t index = cluster % header_.table_entries;
  const bool redundant =
      (header_.flags & VmdkExtentHeader::kFlagRedundant) != 0 && header_.redundant_directory != 0;
  const uint64_t directories[] = {redundant ? header_.redundant_directory : 0, header_.directory};
  for (const uint64_t directory : directories) {
    if (directory == 0) continue;
    uint64_t table = 0;
    int error = co_await need_table(cluster, directory, table);
    if (error == 0)
      error = co_await tables_.change(image(), table + index * 4, entries.data(), entries.size() * 4);
    if (error != 0) co_return error;
  }
  co_return 0;
}

Task<int> VmdkExtent::publish(uint64_t cluster, uint64_t count, uint64_t offset) {
  next_ = std::max(next_, offset + count * cluster_bytes());
  std::vector<uint32_t> entries(count);
  for (uint64_t i = 0; i < count; ++i)
    entries[i] = static_cast<uint32_t>((offset + i * cluster_bytes()) / kSector);
  co_return co_await write_entries(cluster, entries);
}

Task<int> VmdkExtent::publish_zero(uint64_t cluster, uint64_t count) {
  if ((header_.flags & VmdkExtentHeader::kFlagZeroedGrains) == 0) co_return -ENOTSUP;
  while (count != 0) {
    const uint64_t some = std::min(count, header_.table_entries - cluster % header_.table_entries);
    const std::vector<uint32_t> entries(some, kZeroedGrain);
    const int error = co_await write_entries(cluster, entries);
    if (error != 0) co_return error;
    cluster += some;
    count -= some;
  }
  co_return 0;
}

Task<int> VmdkExtent::read_packed(uint64_t cluster, Place place, std::byte* to) {
  std::array<std::byte, kMarkerBytes> marker;
  int error = co_await read_bytes(image(), place.offset, marker.data(), marker.size());
  if (error != 0) co_return error;
  const auto bytes = load_le<uint32_t>(marker.data() + 8);
  // deflate never makes a grain much longer than it is.
  if (load_le<uint64_t>(marker.data()) != cluster * header_.grain || bytes > cluster_bytes() * 2 + 4096)
    co_return -EIO;
  const AlignedBuffer packed(bytes);
  if (!packed) co_return -ENOMEM;
  error = co_await read_bytes(image(), place.offset + kMarkerBytes, packed.data(), bytes);
  if (error != 0) co_return error;
  uLongf got = cluster_bytes();
  if (uncompress(reinterpret_cast<Bytef*>(to), &got, reinterpret_cast<const Bytef*>(packed.data()), bytes) !=
      Z_OK)
    co_return -EIO;
  // The last grain of a disk may be short.
  std::memset(to + got, 0, cluster_bytes() - got);
  co_return 0;
}

Task<int> VmdkExtent::write(uint64_t offset, Buffers from) {
  if (!header_.compressed()) co_return co_await MappedNode::write(offset, from);
  if (read_only()) co_return -EROFS;
  const uint64_t bytes = total_bytes(from);
  if (offset > size() || bytes > size() - offset) co_return -EINVAL;
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t run = std::min(bytes - done, cluster_bytes() - (offset + done) % cluster_bytes());
    const Slice part(from, done, run);
    const int error = co_await write_grain_packed(offset + done, part);
    if (error != 0) co_return error;
    done += run;
  }
  co_return 0;
}

Task<int> VmdkExtent::write_compressed(uint64_t offset, Buffers from) {
  if (!header_.compressed()) co_return -ENOTSUP;
  co_return co_await write(offset, from);
}

// Part of one grain, whose other content stays.
Task<int> VmdkExtent::write_grain_packed(uint64_t offset, Buffers from) {
  const auto turn = co_await allocation().lock();
  const int prepared = co_await begin_change();
  if (prepared != 0) co_return prepared;
  const AlignedBuffer whole(cluster_bytes());
  if (!whole) co_return -ENOMEM;
  const uint64_t bytes = total_bytes(from), begin = align_down(offset, cluster_bytes());
  std::memset(whole.data(), 0, whole.size());
  const uint64_t inside = std::min(cluster_bytes(), size() - begin);
  if (bytes != inside) {
    const int error = co_await read_bytes(*this, begin, whole.data(), inside);
    if (error != 0) co_return error;
  }
  copy_from(from, whole.data() + (offset - begin));
  co_return co_await append_packed(begin / cluster_bytes(), whole.data());
}

Task<int> VmdkExtent::append_packed(uint64_t grain, const std::byte* content) {
  uLongf packed = compressBound(cluster_bytes());
  const AlignedBuffer buffer(align_up(packed + kMarkerBytes, kSector));
  if (!buffer) co_return -ENOMEM;
  if (compress2(reinterpret_cast<Bytef*>(buffer.data() + kMarkerBytes), &packed,
                reinterpret_cast<const Bytef*>(content), cluster_bytes(), Z_DEFAULT_COMPRESSION) != Z_OK)
    co_return -ENOMEM;
  store_le<uint64_t>(buffer.data(), grain * header_.grain);
  store_le<uint32_t>(buffer.data() + 8, static_cast<uint32_t>(packed));
  const size_t bytes = align_up(packed + kMarkerBytes, kSector);
  std::memset(buffer.data() + kMarkerBytes + packed, 0, bytes - kMarkerBytes - packed);
  const uint64_t at = next_;
  if ((at + bytes) / kSector > 0xffffffff) co_return -EFBIG;
  const int error = co_await write_bytes(image(), at, buffer.data(), bytes);
  if (error != 0) co_return error;
  next_ = at + bytes;
  appended_ = true;
  const std::vector<uint32_t> entry(1, static_cast<uint32_t>(at / kSector));
  co_return co_await write_entries(grain, entry);
}

// A stream ends with an empty marker.
Task<Result<void>> VmdkExtent::close() {
  CO_TRY(co_await settle());
  if (appended_) {
    const std::array<std::byte, kSector> end_of_stream{};
    CO_TRY(co_await write_image(image(), next_, end_of_stream.data(), end_of_stream.size()));
    appended_ = false;
  }
  co_return Result<void>();
}

}  // namespace ostler::block
