#include "block/formats/parallels/parallels_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ostler::block {
namespace {

constexpr std::string_view kMagic = "WithoutFreeSpace", kExtendedMagic = "WithouFreSpacExt";
constexpr uint32_t kEmptyImage = 1;  // flag
constexpr uint64_t kSector = 512;

uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

bool ParallelsHeader::recognised(std::span<const std::byte> head) {
  return head.size() >= kBytes && (std::memcmp(head.data(), kMagic.data(), 16) == 0 ||
                                   std::memcmp(head.data(), kExtendedMagic.data(), 16) == 0);
}

Result<ParallelsHeader> ParallelsHeader::parse(std::span<const std::byte, kBytes> bytes, const Node& file) {
  const std::byte* const at = bytes.data();
  if (!recognised(bytes)) return damaged(file, "parallels", "its signature is missing");
  if (load_le<uint32_t>(at + 16) != 2)
    return cannot(file, "parallels",
                  fmt::format("it has version {}, only 2 is known", load_le<uint32_t>(at + 16)));
  ParallelsHeader header;
  header.extended = std::memcmp(at, kExtendedMagic.data(), 16) == 0;
  header.heads = load_le<uint32_t>(at + 20);
  header.cylinders = load_le<uint32_t>(at + 24);
  header.cluster_sectors = load_le<uint32_t>(at + 28);
  header.entries = load_le<uint32_t>(at + 32);
  header.sectors = load_le<uint64_t>(at + 36);
  if (!header.extended) header.sectors &= 0xffffffff;
  header.in_use = load_le<uint32_t>(at + kInUseOffset);
  header.data_sector = load_le<uint32_t>(at + 48);
  header.flags = load_le<uint32_t>(at + 52);
  header.extension = load_le<uint64_t>(at + kExtensionOffset);
  if (header.cluster_sectors == 0 || header.cluster_sectors > (256u << 20) / kSector)
    return damaged(file, "parallels", fmt::format("its clusters have {} sectors", header.cluster_sectors));
  const uint64_t table_bytes = header.entries * uint64_t{4};
  if (table_bytes > kMostTableBytes)
    return cannot(
        file, "parallels",
        fmt::format("its table has {} entries, {} are supported", header.entries, kMostTableBytes / 4));
  if (kBytes + table_bytes > file.size()) return damaged(file, "parallels", "the file ends within its table");
  if (header.sectors > header.entries * uint64_t{header.cluster_sectors})
    return damaged(file, "parallels",
                   fmt::format("a disk of {} sectors does not fit into {} clusters of {} sectors",
                               header.sectors, header.entries, header.cluster_sectors));
  if (header.data_sector != 0 && header.data_sector * kSector < kBytes + table_bytes)
    return damaged(file, "parallels",
                   fmt::format("its data begin at sector {}, within its table", header.data_sector));
  if ((header.flags & kEmptyImage) != 0)
    return cannot(file, "parallels", "it is marked as emptied, which is not supported");
  return header;
}

std::array<std::byte, ParallelsHeader::kBytes> ParallelsHeader::encode() const {
  std::array<std::byte, kBytes> bytes{};
  std::byte* const at = bytes.data();
  std::memcpy(at, (extended ? kExtendedMagic : kMagic).data(), 16);
  store_le<uint32_t>(at + 16, 2);
  store_le<uint32_t>(at + 20, heads);
  store_le<uint32_t>(at + 24, cylinders);
  store_le<uint32_t>(at + 28, cluster_sectors);
  store_le<uint32_t>(at + 32, entries);
  store_le<uint64_t>(at + 36, sectors);
  store_le<uint32_t>(at + kInUseOffset, in_use);
  store_le<uint32_t>(at + 48, data_sector);
  store_le<uint32_t>(at + 52, flags);
  store_le<uint64_t>(at + kExtensionOffset, extension);
  return bytes;
}

Task<Result<std::shared_ptr<ParallelsNode>>> ParallelsNode::open(NodePtr file, bool read_only) {
  std::array<std::byte, ParallelsHeader::kBytes> bytes;
  CO_TRY(co_await read_image(*file, 0, bytes.data(), bytes.size()));
  auto node = std::make_shared<ParallelsNode>(read_only);
  CO_TRY_ASSIGN(node->header_, ParallelsHeader::parse(bytes, *file));
  node->set_geometry(node->header_.sectors * kSector, node->header_.cluster_sectors * kSector);
  CO_TRY(node->attach_file(std::move(file)));
  co_return node;
}

// As a part of the tables: both are in one sector.
Task<Result<void>> ParallelsNode::store_header() {
  const auto header = header_.encode();
  int error = co_await tables_.change(image(), 0, header.data(), header.size());
  if (error == 0) error = co_await store_tables();
  if (error != 0) co_return errno_error(filename() + ": its header cannot be written", -error);
  co_return Result<void>();
}

Task<int> ParallelsNode::find(uint64_t cluster, Place& place) {
  place = {};
  uint32_t entry = 0;
  const int error =
      co_await tables_.read(image(), ParallelsHeader::kBytes + cluster * 4, &entry, sizeof entry);
  if (error != 0 || entry == 0) co_return error;
  place.kind = Place::Kind::kData;
  place.offset = entry * unit();
  const uint64_t data = header_.data_sector != 0 ? header_.data_sector * kSector
                                                 : ParallelsHeader::kBytes + header_.entries * uint64_t{4};
  co_return place.offset >= data&& place.offset < image().size() ? 0 : -EIO;
}

Task<Result<void>> ParallelsNode::prepare_writing() {
  const AlignedBuffer piece(1 << 20);
  if (!piece) co_return errno_error(filename() + " cannot be examined", ENOMEM);
  const uint64_t table_bytes = header_.entries * uint64_t{4};
  uint64_t end = std::max(image().size(), header_.data_sector * kSector);
  for (uint64_t at = 0; at < table_bytes; at += piece.size()) {
    const uint64_t bytes = std::min<uint64_t>(piece.size(), table_bytes - at);
    CO_TRY(co_await read_image(image(), ParallelsHeader::kBytes + at, piece.data(), bytes));
    for (uint64_t i = 0; i < bytes; i += 4)
      if (const auto entry = load_le<uint32_t>(piece.data() + i); entry != 0)
        end = std::max(end, entry * unit() + cluster_bytes());
  }
  next_ = round_up(end, unit());
  // In use; bitmaps of changes in the extension become wrong with the first one.
  header_.in_use = ParallelsHeader::kInUse;
  header_.extension = 0;
  CO_TRY(co_await store_header());
  marked_ = true;
  co_return Result<void>();
}

Task<int> ParallelsNode::reserve(uint64_t, uint64_t& count, uint64_t& offset) {
  if ((next_ + count * cluster_bytes()) / unit() > 0xffffffff) co_return -EFBIG;
  offset = next_;
  co_return 0;
}

Task<int> ParallelsNode::publish(uint64_t cluster, uint64_t count, uint64_t offset) {
  std::vector<uint32_t> entries(count);
  for (uint64_t i = 0; i < count; ++i)
    entries[i] = static_cast<uint32_t>((offset + i * cluster_bytes()) / unit());
  next_ = offset + count * cluster_bytes();
  co_return co_await tables_.change(image(), ParallelsHeader::kBytes + cluster * 4, entries.data(),
                                    entries.size() * 4);
}

Task<Result<void>> ParallelsNode::reopen(bool writable) {
  if (!writable) CO_TRY(co_await close());
  auto reopened = co_await MappedNode::reopen(writable);
  co_return reopened;
}

Task<Result<void>> ParallelsNode::close() {
  if (!marked_) co_return Result<void>();
  marked_ = false;
  header_.in_use = 0;
  CO_TRY(co_await settle());
  co_return co_await store_header();
}

}  // namespace ostler::block
