// Another width of reference counts: new refcount blocks and a new table behind everything else, which count
// all that the old ones count but those themselves. The header names them by one write of its first sector;
// before it the file has only bytes behind its end that nobody refers to.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

struct Layout {
  std::set<uint64_t> blocks;  // indices in the new table of blocks that are not all zero
  uint64_t first = 0;         // cluster of the first new block; the table follows the blocks
  uint64_t table_clusters = 0;
  uint64_t end() const { return first + blocks.size() + table_clusters; }
};

// `layout.blocks` has those of clusters in use; adds those that count the new structures.
void place(Layout& layout, unsigned block_bits, uint64_t cluster_bytes) {
  for (uint64_t end = 0; end != layout.end();) {
    end = layout.end();
    for (uint64_t index = layout.first >> block_bits; index <= (end - 1) >> block_bits; ++index)
      layout.blocks.insert(index);
    layout.table_clusters = ((*layout.blocks.rbegin() + 1) * 8 + cluster_bytes - 1) / cluster_bytes;
  }
}

}  // namespace

// Clusters that count as used, by blocks of 1 << `block_bits`; the one behind the last of them; an error if a
// count is above `most`.
Task<Result<void>> Qcow2Node::survey_refcounts(unsigned block_bits, uint64_t most, std::set<uint64_t>& blocks,
                                               uint64_t& end) {
  const uint64_t per_block = refcounts_per_block();
  for (uint64_t i = 0; i < refcount_table_.words.size(); ++i) {
    if ((refcount_table_.get(i) & kRefcountOffsetMask) == 0) continue;
    // Also bounds what a made-up table costs.
    if ((i * per_block) << cluster_bits_ >= file_->size())
      co_return Error(ErrorKind::kCorrupt,
                      filename() + ": its refcounts reach beyond the end of the file; check and repair it",
                      EINVAL);
    for (uint64_t cluster = i * per_block; cluster < (i + 1) * per_block; ++cluster) {
      uint64_t count = 0;
      const int error = co_await refcount(cluster, count);
      if (error != 0) co_return failed("a refcount block cannot be read", error);
      if (count == 0) continue;
      if (count > most)
        co_return Error(ErrorKind::kUnsupported,
                        fmt::format("{}: cluster {} is referred to {} times, more than the new refcounts can "
                                    "hold; delete snapshots or choose more refcount_bits",
                                    filename(), cluster, count),
                        ENOTSUP);
      blocks.insert(cluster >> block_bits);
      end = std::max(end, cluster + 1);
    }
  }
  co_return Result<void>();
}

// The image is drained.
Task<Result<void>> Qcow2Node::change_refcount_width(unsigned order) {
  if (order == header_.refcount_order) co_return Result<void>();
  int error = co_await prepare_first_write();
  if (error == 0) error = co_await commit();
  if (error == 0) error = co_await release_given_up(true);
  if (error == 0) error = co_await commit();
  if (error != 0) co_return failed("its metadata cannot be written", error);
  const unsigned block_bits = cluster_bits_ + 3 - order;
  const uint64_t most = order == 6 ? ~uint64_t{0} : (uint64_t{1} << (1u << order)) - 1;
  Layout layout;
  layout.first = (file_->size() + cluster_mask()) >> cluster_bits_;
  CO_TRY(co_await survey_refcounts(block_bits, most, layout.blocks, layout.first));
  place(layout, block_bits, cluster_bytes_);
  if (layout.table_clusters << cluster_bits_ > kMostRefcountTableBytes)
    co_return Error(ErrorKind::kUnsupported,
                    filename() + ": the file is too large for refcounts of this width", ENOTSUP);
  std::vector<GivenUp> old = {
      {header_.refcount_table_offset >> cluster_bits_, header_.refcount_table_clusters, true}};
  for (uint64_t i = 0; i < refcount_table_.words.size(); ++i)
    if (const uint64_t block = refcount_table_.get(i) & kRefcountOffsetMask; block != 0)
      old.push_back({block >> cluster_bits_, 1, true});
  std::set<uint64_t> uncounted;
  for (const GivenUp& each : old)
    for (uint64_t i = 0; i < each.count; ++i) uncounted.insert(each.first + i);

  std::vector<uint64_t> table((layout.table_clusters << cluster_bits_) / 8);
  const AlignedBuffer block(cluster_bytes_);
  if (!block) co_return failed("its refcounts cannot be written anew", -ENOMEM);
  uint64_t place_at = layout.first;
  for (const uint64_t index : layout.blocks) {
    std::memset(block.data(), 0, cluster_bytes_);
    const uint64_t begin = index << block_bits;
    for (uint64_t i = 0; i < uint64_t{1} << block_bits; ++i) {
      const uint64_t cluster = begin + i;
      uint64_t count = cluster >= layout.first && cluster < layout.end() ? 1 : 0;
      if (cluster < layout.first && !uncounted.contains(cluster)) error = co_await refcount(cluster, count);
      if (error != 0) co_return failed("a refcount block cannot be read", error);
      if (count != 0) store_refcount(block.data(), i, order, count);
    }
    error = co_await write_bytes(*file_, place_at << cluster_bits_, block.data(), cluster_bytes_);
    if (error != 0) co_return failed("a refcount block cannot be written", error);
    store_be<uint64_t>(&table[index], place_at++ << cluster_bits_);
  }
  const uint64_t table_offset = place_at << cluster_bits_;
  error = co_await write_bytes(*file_, table_offset, table.data(), table.size() * 8);
  if (error == 0) error = co_await flush_files();
  if (error != 0) co_return failed("the refcount table cannot be written", error);

  const Header before = header_;
  header_.refcount_order = order;
  header_.refcount_table_offset = table_offset;
  header_.refcount_table_clusters = static_cast<uint32_t>(layout.table_clusters);
  auto written = co_await write_header();
  if (!written) {
    header_ = before;
    co_return written;
  }
  {
    const std::lock_guard lock(mutex_);
    pages_.clear_locked();
    refcount_table_.assign(table_offset, std::move(table));
    refcount_block_bits_ = block_bits;
    search_from_ = 0;
    compressed_at_ = 0;
    metadata_known_ = false;
    metadata_.clear();
    if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, layout.end() << cluster_bits_);
  }
  error = co_await flush_files();
  if (error != 0) co_return failed("its header cannot be written", error);
  for (const GivenUp& each : old) {
    if (!discard_host_) break;
    error = co_await file_->discard(each.first << cluster_bits_, each.count << cluster_bits_);
    if (error != 0) co_return failed("the old refcounts' space cannot be given back", error);
  }
  co_return Result<void>();
}

}  // namespace ostler::block::qcow2
