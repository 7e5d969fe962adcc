#include "block/formats/vhdx/vhdx_node.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/formats/vhdx/vhdx_log.h"

namespace ostler::block {

Task<Result<std::shared_ptr<VhdxNode>>> VhdxNode::open(NodePtr file, bool read_only) {
  auto node = std::make_shared<VhdxNode>(read_only);
  CO_TRY_ASSIGN(node->header_, co_await VhdxHeader::read(*file));
  if (node->header_.log_in_use()) {
    if (read_only)
      co_return Error(
          ErrorKind::kState,
          fmt::format("{} was not closed properly and its log must be replayed, which needs write access: "
                      "run `ostler-img check -r all` on it",
                      file->filename()));
    if (node->header_.log_bytes == 0) co_return damaged(*file, "vhdx", "its log is in use, but has no size");
    CO_TRY(co_await replay_vhdx_log(*file, node->header_));
    node->header_.log_id = {};
    node->header_.file_write = random_uuid();
    CO_TRY(co_await node->header_.write(*file));
  }
  CO_TRY_ASSIGN(node->layout_, co_await VhdxLayout::read(*file));
  node->set_geometry(node->layout_.disk_bytes, node->layout_.block_bytes);
  CO_TRY(node->attach_file(std::move(file)));
  co_return node;
}

Task<int> VhdxNode::find(uint64_t cluster, Place& place) {
  place = {};
  uint64_t entry = 0;
  const uint64_t at = layout_.table_offset + layout_.entry_of(cluster) * 8;
  const int error = co_await tables_.read(image(), at, &entry, sizeof entry);
  if (error != 0) co_return error;
  switch (entry & kStateMask) {
    case kNotPresent:
    case kUndefined:
      co_return 0;
    case kZeroBlock:
    case kUnmapped:
      place.kind = Place::Kind::kZero;
      co_return 0;
    case kPresent:
      place.kind = Place::Kind::kData;
      place.offset = entry & kOffsetMask;
      co_return place.offset >= VhdxLayout::kMegabyte&& place.offset < image().size() ? 0 : -EIO;
    default:
      co_return -EIO;
  }
}

Task<Result<void>> VhdxNode::prepare_writing() {
  const AlignedBuffer piece(1 << 20);
  if (!piece) co_return errno_error(filename() + " cannot be examined", ENOMEM);
  const uint64_t table_bytes = layout_.entries() * 8;
  uint64_t end = image().size();
  for (uint64_t at = 0; at < table_bytes; at += piece.size()) {
    const uint64_t bytes = std::min<uint64_t>(piece.size(), table_bytes - at);
    CO_TRY(co_await read_image(image(), layout_.table_offset + at, piece.data(), bytes));
    for (uint64_t i = 0; i < bytes; i += 8) {
      const auto entry = load_le<uint64_t>(piece.data() + i);
      if ((entry & kStateMask) != kPresent) continue;
      if ((entry & kOffsetMask) > uint64_t{1} << 47)
        co_return damaged(
            image(), "vhdx",
            fmt::format("an entry of its block allocation table points to offset {}", entry & kOffsetMask));
      end = std::max(end, (entry & kOffsetMask) + layout_.block_bytes);
    }
  }
  next_ = align_up(end, VhdxLayout::kMegabyte);
  co_return Result<void>();
}

// Entries of sector bitmaps lie between those of the blocks: no run goes across one.
Task<int> VhdxNode::reserve(uint64_t cluster, uint64_t& count, uint64_t& offset) {
  count = std::min(count, layout_.chunk_ratio() - cluster % layout_.chunk_ratio());
  offset = next_;
  co_return 0;
}

Task<int> VhdxNode::publish(uint64_t cluster, uint64_t count, uint64_t offset) {
  std::vector<uint64_t> entries(count);
  for (uint64_t i = 0; i < count; ++i) entries[i] = (offset + i * cluster_bytes()) | kPresent;
  next_ = offset + count * cluster_bytes();
  const uint64_t at = layout_.table_offset + layout_.entry_of(cluster) * 8;
  co_return co_await tables_.change(image(), at, entries.data(), entries.size() * 8);
}

Task<int> VhdxNode::announce_change() {
  const auto turn = co_await allocation().lock();
  if (announced_) co_return 0;
  header_.file_write = random_uuid();
  header_.data_write = random_uuid();
  auto written = co_await header_.write(image());
  if (!written) co_return written.error().host_errno() != 0 ? -written.error().host_errno() : -EIO;
  announced_ = true;
  co_return 0;
}

Task<int> VhdxNode::write(uint64_t offset, Buffers from) {
  if (read_only()) co_return -EROFS;
  if (!announced_) {
    const int error = co_await announce_change();
    if (error != 0) co_return error;
  }
  co_return co_await MappedNode::write(offset, from);
}

Task<int> VhdxNode::discard(uint64_t offset, uint64_t bytes) {
  if (read_only()) co_return -EROFS;
  if (!announced_) {
    const int error = co_await announce_change();
    if (error != 0) co_return error;
  }
  co_return co_await MappedNode::discard(offset, bytes);
}

Task<int> VhdxNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (read_only()) co_return -EROFS;
  if (!announced_) {
    const int error = co_await announce_change();
    if (error != 0) co_return error;
  }
  co_return co_await MappedNode::write_zeroes(offset, bytes, flags);
}

Task<Result<void>> VhdxNode::reopen(bool writable) {
  announced_ = false;
  return MappedNode::reopen(writable);
}

}  // namespace ostler::block
