#include "block/formats/vpc/vpc_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kFixedCluster = 1 << 20;  // of a fixed disk: only how requests are cut

}  // namespace

Task<Result<std::shared_ptr<VpcNode>>> VpcNode::open(NodePtr file, bool read_only) {
  auto node = std::make_shared<VpcNode>(read_only);
  std::array<std::byte, VhdFooter::kBytes>& bytes = node->footer_bytes_;
  const uint64_t end = file->size();
  if (end < VhdFooter::kBytes) co_return damaged(*file, "vpc", "the file is shorter than a footer");
  // The copy at the beginning never changes; only dynamic disks have it.
  CO_TRY(co_await read_image(*file, 0, bytes.data(), bytes.size()));
  if (!VhdFooter::recognised(bytes))
    CO_TRY(co_await read_image(*file, end - bytes.size(), bytes.data(), bytes.size()));
  CO_TRY_ASSIGN(node->footer_, VhdFooter::parse(bytes, *file));
  const uint64_t size = node->footer_.disk_bytes();
  if (!node->dynamic()) {
    if (size > end - VhdFooter::kBytes)
      co_return damaged(*file, "vpc",
                        fmt::format("the fixed disk has {} bytes, the file only {}", size, end));
    node->set_geometry(size, kFixedCluster);
  } else {
    std::array<std::byte, VhdHeader::kBytes> header;
    if (node->footer_.header_offset > end || end - node->footer_.header_offset < header.size())
      co_return damaged(
          *file, "vpc",
          fmt::format("its header at offset {} is not within the file", node->footer_.header_offset));
    CO_TRY(co_await read_image(*file, node->footer_.header_offset, header.data(), header.size()));
    CO_TRY_ASSIGN(node->header_, VhdHeader::parse(header, *file));
    if (size > node->header_.entries * uint64_t{node->header_.block_bytes})
      co_return damaged(*file, "vpc",
                        fmt::format("a disk of {} bytes does not fit into {} blocks of {} bytes", size,
                                    node->header_.entries, node->header_.block_bytes));
    node->set_geometry(size, node->header_.block_bytes);
  }
  CO_TRY(node->attach_file(std::move(file)));
  co_return node;
}

Limits VpcNode::limits() const {
  return {.cluster_bytes = dynamic() ? header_.block_bytes : 0};
}

Task<int> VpcNode::find(uint64_t cluster, Place& place) {
  place = {.kind = Place::Kind::kZero};
  if (!dynamic()) {
    place.kind = Place::Kind::kData;
    place.offset = cluster * kFixedCluster;
    place.clusters = clusters() - cluster;
    co_return 0;
  }
  uint32_t entry = 0;
  const int error = co_await tables_.read(image(), header_.table_offset + cluster * 4, &entry, sizeof entry);
  if (error != 0) co_return error;
  const auto sector = load_be<uint32_t>(&entry);
  if (sector == VhdHeader::kUnused) co_return 0;
  place.kind = Place::Kind::kData;
  place.offset = sector * kSector + bitmap_bytes();
  co_return place.offset < image().size() ? 0 : -EIO;
}

// Behind the last block that the table knows, and behind whatever else is in the file but the footer.
Task<Result<void>> VpcNode::prepare_writing() {
  const AlignedBuffer piece(1 << 20);
  if (!piece) co_return errno_error(filename() + " cannot be examined", ENOMEM);
  const uint64_t table_bytes = header_.entries * uint64_t{4};
  uint64_t end = 0;
  for (uint64_t at = 0; at < table_bytes; at += piece.size()) {
    const uint64_t bytes = std::min<uint64_t>(piece.size(), table_bytes - at);
    CO_TRY(co_await read_image(image(), header_.table_offset + at, piece.data(), bytes));
    for (uint64_t i = 0; i < bytes; i += 4) {
      const auto sector = load_be<uint32_t>(piece.data() + i);
      if (sector != VhdHeader::kUnused)
        end = std::max(end, sector * kSector + bitmap_bytes() + header_.block_bytes);
    }
  }
  std::array<std::byte, VhdFooter::kBytes> last;
  uint64_t file_end = image().size();
  CO_TRY(co_await read_image(image(), file_end - last.size(), last.data(), last.size()));
  if (VhdFooter::recognised(last) && file_end >= header_.table_offset + table_bytes + last.size())
    file_end -= last.size();
  next_ = std::max(end, align_up(file_end, kSector));
  co_return Result<void>();
}

Task<int> VpcNode::reserve(uint64_t, uint64_t& count, uint64_t& offset) {
  const uint64_t end = next_ + bitmap_bytes() + header_.block_bytes;
  if (end / kSector >= VhdHeader::kUnused) co_return -EFBIG;
  // The footer first: while the file grows, it ends with one or the copy at the beginning counts.
  int error = co_await write_bytes(image(), end, footer_bytes_.data(), footer_bytes_.size());
  if (error != 0) co_return error;
  // Every sector of the block is in use; what is not written is zero.
  const std::vector<std::byte> bitmap(bitmap_bytes(), std::byte{0xff});
  error = co_await write_bytes(image(), next_, bitmap.data(), bitmap.size());
  count = 1;
  offset = next_ + bitmap_bytes();
  co_return error;
}

Task<int> VpcNode::publish(uint64_t cluster, uint64_t, uint64_t offset) {
  uint32_t entry = 0;
  store_be(&entry, static_cast<uint32_t>((offset - bitmap_bytes()) / kSector));
  next_ = offset + header_.block_bytes;
  co_return co_await tables_.change(image(), header_.table_offset + cluster * 4, &entry, sizeof entry);
}

}  // namespace ostler::block
