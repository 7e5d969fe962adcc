// Reference counts of host clusters, and looking for free ones.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

uint64_t load_refcount(const std::byte* block, uint64_t index, unsigned order) {
  const uint64_t bit = index << order;
  const std::byte* const at = block + bit / 8;
  switch (order) {
    case 3:
      return load_be<uint8_t>(at);
    case 4:
      return load_be<uint16_t>(at);
    case 5:
      return load_be<uint32_t>(at);
    case 6:
      return load_be<uint64_t>(at);
    default:
      return std::to_integer<unsigned>(*at) >> (bit % 8) & ((1u << (1u << order)) - 1);
  }
}

void store_refcount(std::byte* block, uint64_t index, unsigned order, uint64_t value) {
  const uint64_t bit = index << order;
  std::byte* const at = block + bit / 8;
  switch (order) {
    case 3:
      store_be(at, static_cast<uint8_t>(value));
      break;
    case 4:
      store_be(at, static_cast<uint16_t>(value));
      break;
    case 5:
      store_be(at, static_cast<uint32_t>(value));
      break;
    case 6:
      store_be(at, value);
      break;
    default: {
      const unsigned mask = ((1u << (1u << order)) - 1) << (bit % 8);
      *at = static_cast<std::byte>((std::to_integer<unsigned>(*at) & ~mask) | value << (bit % 8));
    }
  }
}

Task<int> Qcow2Node::load_refcount_page(uint64_t cluster, Pin& pin) {
  uint64_t page;
  {
    const std::lock_guard lock(mutex_);
    pin = Pin();
    const uint64_t index = cluster >> refcount_block_bits_;
    const uint64_t block =
        index < refcount_table_.words.size() ? refcount_table_.get(index) & kRefcountOffsetMask : 0;
    if (block == 0) co_return 0;
    if ((block & cluster_mask()) != 0) co_return -EIO;
    const uint64_t bit = (cluster & (refcounts_per_block() - 1)) << header_.refcount_order;
    page = align_down(block + bit / 8, pages_.page_bytes());
  }
  co_return co_await pages_.load(*file_, page, PageKind::kRefcount, pin);
}

uint64_t Qcow2Node::refcount_locked(const Pin& page, uint64_t cluster) const {
  const uint64_t per_page = pages_.page_bytes() * 8 >> header_.refcount_order;
  return load_refcount(page.data(), cluster & (per_page - 1), header_.refcount_order);
}

void Qcow2Node::set_refcount_locked(const Pin& page, uint64_t cluster, uint64_t value) {
  const uint64_t per_page = pages_.page_bytes() * 8 >> header_.refcount_order;
  store_refcount(page.data(), cluster & (per_page - 1), header_.refcount_order, value);
  pages_.set_dirty_locked(*page.page());
}

Task<int> Qcow2Node::refcount(uint64_t cluster, uint64_t& value) {
  Pin page;
  const int error = co_await load_refcount_page(cluster, page);
  if (error != 0) co_return error;
  const std::lock_guard lock(mutex_);
  value = page ? refcount_locked(page, cluster) : 0;
  co_return 0;
}

Task<int> Qcow2Node::change_refcount(uint64_t cluster, int64_t delta, uint64_t& now) {
  Pin page;
  const int error = co_await load_refcount_page(cluster, page);
  if (error != 0) co_return error;
  const std::lock_guard lock(mutex_);
  const uint64_t before = page ? refcount_locked(page, cluster) : 0;
  const bool out_of_range = delta < 0 ? before < static_cast<uint64_t>(-delta)
                                      : before > most_refcount() - static_cast<uint64_t>(delta);
  if (out_of_range || !page) co_return -ERANGE;
  now = before + static_cast<uint64_t>(delta);
  set_refcount_locked(page, cluster, now);
  if (now == 0) search_from_ = std::min(search_from_, cluster);
  co_return 0;
}

Task<int> Qcow2Node::change_refcounts(uint64_t first, uint64_t count, int64_t delta) {
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t now;
    const int error = co_await change_refcount(first + i, delta, now);
    if (error != 0) co_return error;
  }
  co_return 0;
}

void Qcow2Node::note_metadata_locked(uint64_t offset) {
  if (metadata_known_) metadata_.insert(offset >> cluster_bits_);
}

// Whether a cluster that counts as free lies where metadata is: then refcounts lie.
bool Qcow2Node::overlaps_metadata_locked(uint64_t offset, uint64_t bytes) {
  const auto hits = [&](uint64_t begin, uint64_t length) {
    return length != 0 && offset < begin + length && begin < offset + bytes;
  };
  if (hits(0, cluster_bytes_) || hits(header_.encryption_header.offset, header_.encryption_header.bytes) ||
      hits(l1_.offset, l1_.words.size() * 8) ||
      hits(refcount_table_.offset, refcount_table_.words.size() * 8) ||
      (header_.snapshot_count != 0 && hits(header_.snapshots_offset, 1)))
    return true;
  if (!metadata_known_) {
    metadata_known_ = true;
    for (uint64_t i = 0; i < l1_.words.size(); ++i)
      if (const uint64_t table = l1_.get(i) & kOffsetMask; table != 0)
        metadata_.insert(table >> cluster_bits_);
    for (uint64_t i = 0; i < refcount_table_.words.size(); ++i)
      if (const uint64_t block = refcount_table_.get(i) & kRefcountOffsetMask; block != 0)
        metadata_.insert(block >> cluster_bits_);
  }
  for (uint64_t at = offset; at < offset + bytes; at += cluster_bytes_)
    if (metadata_.contains(at >> cluster_bits_)) return true;
  return false;
}

Task<int> Qcow2Node::report_corruption(std::string what) {
  if (corrupt_.exchange(true)) co_return -EIO;
  log::warning(filename() + " is corrupt (" + what + "); it is not written any more, check and repair it");
  header_.incompatible |= kCorrupt;
  if (header_.version >= 3 && !read_only_) {
    auto written = co_await write_header();
    static_cast<void>(written);
  }
  co_return -EIO;
}

// Takes the first free cluster at or after `from` and those behind it, up to `want` or the end of their page.
Task<int> Qcow2Node::take_clusters(uint64_t from, uint64_t want, uint64_t& first, uint64_t& got) {
  uint64_t at = from;
  const uint64_t per_page = pages_.page_bytes() * 8 >> header_.refcount_order;
  for (;;) {
    const uint64_t table_index = at >> refcount_block_bits_;
    if (at >= uint64_t{1} << (56 - cluster_bits_)) co_return -EFBIG;
    Pin page;
    int error = co_await load_refcount_page(at, page);
    if (error == 0 && !page) {
      error = co_await grow_refcounts(table_index);
      if (error == 0) continue;
    }
    if (error != 0) co_return error;
    std::unique_lock lock(mutex_);
    const uint64_t page_end = align_down(at, per_page) + per_page;
    uint64_t free = at;
    while (free < page_end && refcount_locked(page, free) != 0) ++free;
    if (search_from_ == at) search_from_ = free;
    uint64_t end = free;
    while (end < page_end && end - free < want && refcount_locked(page, end) == 0) ++end;
    if (end == free) {
      at = page_end;
      continue;
    }
    if (overlaps_metadata_locked(free << cluster_bits_, (end - free) << cluster_bits_)) {
      lock.unlock();
      co_return co_await report_corruption("a cluster with metadata counts as free");
    }
    for (uint64_t cluster = free; cluster < end; ++cluster) set_refcount_locked(page, cluster, 1);
    if (search_from_ == free) search_from_ = end;
    first = free;
    got = end - free;
    co_return 0;
  }
}

Task<int> Qcow2Node::allocate_clusters(uint64_t want, bool all, uint64_t& offset, uint64_t& got) {
  if (all && want >= refcounts_per_block()) {
    got = want;
    co_return co_await allocate_behind(want, offset);
  }
  uint64_t from;
  {
    const std::lock_guard lock(mutex_);
    from = search_from_;
  }
  uint64_t first = 0, total = 0;
  int error = co_await take_clusters(from, want, first, total);
  while (error == 0 && all && total < want) {
    uint64_t next = 0, more = 0;
    error = co_await take_clusters(first + total, want - total, next, more);
    if (error == 0 && next == first + total) {
      total += more;
      continue;
    }
    // A gap: what was taken is given back, nobody has heard of it.
    const int returned = co_await change_refcounts(first, total, -1);
    if (error == 0) error = returned;
    first = next;
    total = more;
  }
  if (error != 0) co_return error;
  offset = first << cluster_bits_;
  got = total;
  co_return 0;
}

Task<int> Qcow2Node::allocate_metadata(uint64_t bytes, uint64_t& offset) {
  uint64_t got;
  const int error = co_await allocate_clusters((bytes + cluster_mask()) >> cluster_bits_, true, offset, got);
  if (error != 0) co_return error;
  const std::lock_guard lock(mutex_);
  if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, offset + (got << cluster_bits_));
  co_return 0;
}

// A block of refcounts for a part of the file that has none. It lies in that part itself, first.
Task<int> Qcow2Node::grow_refcounts(uint64_t table_index) {
  const Mutex::Guard alone = co_await growing_.lock();
  {
    const std::lock_guard lock(mutex_);
    if (table_index < refcount_table_.words.size() &&
        (refcount_table_.get(table_index) & kRefcountOffsetMask) != 0)
      co_return 0;
  }
  if (table_index >= refcount_table_.words.size()) co_return co_await grow_refcount_table(table_index);
  const uint64_t cluster = table_index << refcount_block_bits_;
  const uint64_t offset = cluster << cluster_bits_;
  {
    std::unique_lock lock(mutex_);
    if (overlaps_metadata_locked(offset, cluster_bytes_)) {
      lock.unlock();
      co_return co_await report_corruption("a cluster with metadata has no refcount");
    }
  }
  const AlignedBuffer block(cluster_bytes_);
  if (!block) co_return -ENOMEM;
  std::memset(block.data(), 0, cluster_bytes_);
  // It counts itself from the moment when the table names it.
  store_refcount(block.data(), 0, header_.refcount_order, 1);
  const int error = co_await write_bytes(*file_, offset, block.data(), cluster_bytes_);
  if (error != 0) co_return error;
  {
    const std::lock_guard lock(mutex_);
    pages_.drop_locked(offset, cluster_bytes_);
    note_metadata_locked(offset);
    refcount_table_.set(table_index, offset);
    if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, offset + cluster_bytes_);
  }
  co_return 0;
}

// A larger refcount table, behind all that has refcounts, with the blocks that cover it and themselves.
Task<int> Qcow2Node::grow_refcount_table(uint64_t table_index) {
  TopTable next;
  uint64_t first, old_offset, old_clusters;
  {
    const std::lock_guard lock(mutex_);
    next.words = refcount_table_.words;
    old_offset = refcount_table_.offset;
    old_clusters = header_.refcount_table_clusters;
  }
  first = next.words.size() << refcount_block_bits_;
  const uint64_t per_cluster = cluster_bytes_ / 8;
  // One and a half times what is needed, and room for the entries of the blocks that come with it.
  const uint64_t entries = std::max(table_index + 1, static_cast<uint64_t>(next.words.size())) * 3 / 2 + 2;
  const uint64_t table_clusters = (entries + per_cluster - 1) / per_cluster;
  if (table_clusters << cluster_bits_ > kMostRefcountTableBytes) co_return -EFBIG;
  uint64_t blocks = 1;
  while (blocks << refcount_block_bits_ < table_clusters + blocks) ++blocks;
  if (next.words.size() + blocks > table_clusters * per_cluster) co_return -EFBIG;
  const uint64_t used = table_clusters + blocks;
  const AlignedBuffer block(cluster_bytes_);
  if (!block) co_return -ENOMEM;
  const uint64_t old_entries = next.words.size();
  next.words.resize(table_clusters * per_cluster);
  int error = 0;
  for (uint64_t b = 0; b < blocks && error == 0; ++b) {
    std::memset(block.data(), 0, cluster_bytes_);
    const uint64_t from = b << refcount_block_bits_;
    for (uint64_t c = from; c < std::min(used, from + refcounts_per_block()); ++c)
      store_refcount(block.data(), c - from, header_.refcount_order, 1);
    const uint64_t at = (first + table_clusters + b) << cluster_bits_;
    store_be<uint64_t>(&next.words[old_entries + b], at);
    error = co_await write_bytes(*file_, at, block.data(), cluster_bytes_);
  }
  const uint64_t table_offset = first << cluster_bits_;
  if (error == 0)
    error = co_await write_bytes(*file_, table_offset, next.words.data(), next.words.size() * 8);
  if (error == 0) error = co_await file_->flush();
  if (error != 0) co_return error;
  {
    const std::lock_guard lock(mutex_);
    pages_.drop_locked(table_offset, used << cluster_bits_);
    // Entries that changed meanwhile are dirty in the old table.
    for (uint64_t i = 0; i < old_entries; ++i) next.words[i] = refcount_table_.words[i];
    const std::vector<bool> dirty = refcount_table_.dirty;
    const bool any_dirty = refcount_table_.any_dirty;
    refcount_table_.assign(table_offset, std::move(next.words));
    std::copy(dirty.begin(), dirty.end(), refcount_table_.dirty.begin());
    refcount_table_.any_dirty = any_dirty;
    header_.refcount_table_offset = table_offset;
    header_.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
    for (uint64_t b = 0; b < blocks; ++b) note_metadata_locked((first + table_clusters + b) << cluster_bits_);
    if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, (first + used) << cluster_bits_);
  }
  auto written = co_await write_header();
  if (!written) co_return written.error().host_errno() != 0 ? -written.error().host_errno() : -EIO;
  error = co_await file_->flush();
  if (error != 0) co_return error;
  const std::lock_guard lock(mutex_);
  given_up_.push_back({old_offset >> cluster_bits_, old_clusters, false});
  co_return 0;
}

// Frees clusters that were given up, as far as no request can still use them.
Task<int> Qcow2Node::release_given_up(bool all) {
  for (;;) {
    std::vector<GivenUp> free;
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.empty() || (!all && !epochs_.is_over(waiting_.front().epoch))) co_return 0;
      free = std::move(waiting_.front().clusters);
      waiting_.pop_front();
      // No further compressed cluster goes into one that may become free.
      const uint64_t packing = compressed_at_ >> cluster_bits_;
      for (const GivenUp& each : free)
        if (packing >= each.first && packing - each.first < each.count) compressed_at_ = 0;
    }
    for (const GivenUp& each : free) {
      const uint64_t end = each.first + each.count;
      for (uint64_t first = each.first; first < end;) {
        // A run of clusters that become free goes back to the host at once, before somebody else can have it.
        uint64_t next = first;
        for (uint64_t count = 1; next < end && next - first < 4096; ++next) {
          const int error = co_await refcount(next, count);
          if (error != 0) co_return error;
          if (count != 1) break;
        }
        if (next != first) {
          if (each.discard && discard_host_) {
            const int error =
                co_await file_->discard(first << cluster_bits_, (next - first) << cluster_bits_);
            if (error != 0) co_return error;
          }
          const std::lock_guard lock(mutex_);
          for (uint64_t cluster = first; cluster < next; ++cluster) metadata_.erase(cluster);
        } else {
          ++next;
        }
        const int error = co_await change_refcounts(first, next - first, -1);
        // A refcount that lies is left alone: at worst a cluster leaks.
        if (error != 0 && error != -ERANGE) co_return error;
        first = next;
      }
    }
  }
}

}  // namespace ostler::block::qcow2
