#include "block/formats/vdi/vdi_node.h"

#include <fmt/format.h>

#include <algorithm>

namespace ostler::block {

Task<Result<std::shared_ptr<VdiNode>>> VdiNode::open(NodePtr file, bool read_only) {
  std::array<std::byte, VdiHeader::kBytes> bytes;
  CO_TRY(co_await read_image(*file, 0, bytes.data(), bytes.size()));
  auto node = std::make_shared<VdiNode>(read_only);
  CO_TRY_ASSIGN(node->header_, VdiHeader::parse(bytes, *file));
  if (node->header_.map_offset + uint64_t{node->header_.blocks} * 4 > file->size())
    co_return damaged(*file, "vdi", "the file ends within the block map");
  node->set_geometry(node->header_.disk_bytes, node->header_.block_bytes);
  CO_TRY(node->attach_file(std::move(file)));
  co_return node;
}

Task<int> VdiNode::find(uint64_t cluster, Place& place) {
  uint32_t entry = 0;
  const int error = co_await tables_.read(image(), header_.map_offset + cluster * 4, &entry, sizeof entry);
  if (error != 0) co_return error;
  place = {.kind = Place::Kind::kZero};
  if (entry == VdiHeader::kUnallocated || entry == VdiHeader::kDiscarded) co_return 0;
  place.kind = Place::Kind::kData;
  place.offset = header_.data_offset + entry * uint64_t{header_.block_bytes};
  if (entry >= header_.blocks || place.offset >= image().size()) co_return -EIO;
  co_return 0;
}

Task<Result<uint32_t>> VdiNode::blocks_in_use() {
  const AlignedBuffer piece(1 << 20);
  if (!piece) co_return errno_error(filename() + " cannot be examined", ENOMEM);
  const uint64_t map_bytes = uint64_t{header_.blocks} * 4;
  uint32_t end = 0;
  for (uint64_t at = 0; at < map_bytes; at += piece.size()) {
    const uint64_t bytes = std::min<uint64_t>(piece.size(), map_bytes - at);
    CO_TRY(co_await read_image(image(), header_.map_offset + at, piece.data(), bytes));
    for (uint64_t i = 0; i < bytes; i += 4) {
      const auto entry = load_le<uint32_t>(piece.data() + i);
      if (entry < VdiHeader::kDiscarded) end = std::max(end, entry + 1);
    }
  }
  co_return end;
}

// The header's count may be behind the map after a power cut.
Task<Result<void>> VdiNode::prepare_writing() {
  CO_TRY_ASSIGN(const uint32_t in_use, co_await blocks_in_use());
  next_block_ = std::max(in_use, header_.allocated);
  if (next_block_ > header_.blocks)
    co_return damaged(
        image(), "vdi",
        fmt::format("an entry of its block map is {}, there are {} blocks", next_block_ - 1, header_.blocks));
  co_return Result<void>();
}

Task<int> VdiNode::reserve(uint64_t, uint64_t& count, uint64_t& offset) {
  count = std::min<uint64_t>(count, header_.blocks - next_block_);
  // Blocks that were in use before an interrupted write, or discarded ones, have used up the numbers.
  if (count == 0) co_return -ENOSPC;
  offset = header_.data_offset + next_block_ * uint64_t{header_.block_bytes};
  co_return 0;
}

Task<int> VdiNode::publish(uint64_t cluster, uint64_t count, uint64_t offset) {
  const auto first = static_cast<uint32_t>((offset - header_.data_offset) / header_.block_bytes);
  next_block_ = first + static_cast<uint32_t>(count);
  std::vector<uint32_t> entries(count);
  for (size_t i = 0; i < entries.size(); ++i) entries[i] = first + static_cast<uint32_t>(i);
  co_return co_await tables_.change(image(), header_.map_offset + cluster * 4, entries.data(),
                                    entries.size() * 4);
}

// The count first: whoever goes by it never takes a block that the map already points to.
Task<int> VdiNode::write_before_tables() {
  const uint32_t count = next_block_;
  co_return co_await write_bytes(image(), VdiHeader::kAllocatedOffset, &count, sizeof count);
}

Task<Result<void>> VdiNode::check_more(CheckReport& report) {
  uint32_t count = 0;
  CO_TRY(co_await read_image(image(), VdiHeader::kAllocatedOffset, &count, sizeof count));
  if (count != report.allocated_clusters) {
    ++report.corruptions;
    complain(report, fmt::format("{}: the header counts {} blocks in use, the block map {}", filename(),
                                 count, report.allocated_clusters));
  }
  co_return Result<void>();
}

}  // namespace ostler::block
