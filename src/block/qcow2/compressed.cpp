// Compressed clusters: several of them share the bytes of host clusters, whose refcounts count them.
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {
namespace {

struct Descriptor {
  uint64_t offset;
  uint64_t bytes;  // up to the end of its last sector
};

Descriptor parse_descriptor(uint64_t word, unsigned cluster_bits) {
  const unsigned shift = 62 - (cluster_bits - 8);
  Descriptor d;
  d.offset = word & ((uint64_t{1} << shift) - 1);
  const uint64_t sectors = (word >> shift & ((uint64_t{1} << (cluster_bits - 8)) - 1)) + 1;
  d.bytes = sectors * 512 - (d.offset & 511);
  return d;
}

bool inflate_cluster(std::span<const std::byte> from, std::span<std::byte> to) {
  z_stream stream = {};
  if (inflateInit2(&stream, -12) != Z_OK) return false;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));  // zlib only reads it
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(to.data());
  stream.avail_out = static_cast<uInt>(to.size());
  const int result = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  // What follows the end of the stream belongs to the neighbour.
  return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
}

struct FreeDecompressor {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};
struct FreeCompressor {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

bool unzstd_cluster(std::span<const std::byte> from, std::span<std::byte> to) {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeDecompressor> context(ZSTD_createDCtx());
  if (!context) return false;
  ZSTD_DCtx_reset(context.get(), ZSTD_reset_session_only);
  ZSTD_inBuffer in = {from.data(), from.size(), 0};
  ZSTD_outBuffer out = {to.data(), to.size(), 0};
  while (out.pos < out.size) {
    const size_t before_in = in.pos, before_out = out.pos;
    const size_t result = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(result) || (in.pos == before_in && out.pos == before_out)) return false;
    if (result == 0) break;
  }
  return out.pos == out.size;
}

// Bytes written, or 0 if they would be no fewer than a cluster's.
size_t deflate_cluster(std::span<const std::byte> from, std::span<std::byte> to) {
  z_stream stream = {};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK) return 0;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = reinterpret_cast<Bytef*>(to.data());
  stream.avail_out = static_cast<uInt>(to.size());
  const int result = deflate(&stream, Z_FINISH);
  deflateEnd(&stream);
  return result == Z_STREAM_END ? to.size() - stream.avail_out : 0;
}

size_t zstd_cluster(std::span<const std::byte> from, std::span<std::byte> to) {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeCompressor> context(ZSTD_createCCtx());
  if (!context) return 0;
  const size_t result = ZSTD_compress2(context.get(), to.data(), to.size(), from.data(), from.size());
  return ZSTD_isError(result) ? 0 : result;
}

}  // namespace

Task<int> Qcow2Node::read_compressed(uint64_t word, uint64_t offset, Buffers to) {
  std::shared_ptr<const Decompressed> cluster;
  {
    const std::lock_guard lock(mutex_);
    if (decompressed_ && decompressed_->descriptor == word) cluster = decompressed_;
  }
  if (!cluster) {
    const Descriptor where = parse_descriptor(word, cluster_bits_);
    const AlignedBuffer packed(where.bytes);
    auto fresh = std::make_shared<Decompressed>();
    fresh->descriptor = word;
    fresh->data = AlignedBuffer(cluster_bytes_);
    if (!packed || !fresh->data) co_return -ENOMEM;
    const int error = co_await read_bytes(*file_, where.offset, packed.data(), where.bytes);
    if (error != 0) co_return error;
    const bool good = header_.compression == 1 ? unzstd_cluster(packed.bytes(), fresh->data.bytes())
                                               : inflate_cluster(packed.bytes(), fresh->data.bytes());
    if (!good) co_return -EIO;
    cluster = std::move(fresh);
    const std::lock_guard lock(mutex_);
    decompressed_ = cluster;
  }
  copy_to(to, cluster->data.data() + (offset & cluster_mask()));
  co_return 0;
}

// One more compressed cluster in the host cluster that ends at `at`, if that is still where the next one
// goes.
Task<bool> Qcow2Node::share_cluster(uint64_t at) {
  Pin page;
  const int error = co_await load_refcount_page(at >> cluster_bits_, page);
  if (error != 0 || !page) co_return false;
  const std::lock_guard lock(mutex_);
  const uint64_t count = refcount_locked(page, at >> cluster_bits_);
  if (compressed_at_ != at || count == 0 || count >= most_refcount()) co_return false;
  set_refcount_locked(page, at >> cluster_bits_, count + 1);
  co_return true;
}

// A place of `bytes` that need not begin at a cluster; its clusters' refcounts count it.
Task<int> Qcow2Node::allocate_compressed(uint64_t bytes, uint64_t& offset) {
  const Mutex::Guard alone = co_await packing_.lock();
  uint64_t at;
  {
    const std::lock_guard lock(mutex_);
    at = compressed_at_;
  }
  const uint64_t room = at == 0 ? 0 : cluster_bytes_ - (at & cluster_mask());
  if (at != 0 && bytes <= room) {
    const bool shared = co_await share_cluster(at);
    if (shared) {
      const std::lock_guard lock(mutex_);
      offset = at;
      compressed_at_ = bytes == room ? 0 : at + bytes;
      co_return 0;
    }
  }
  uint64_t fresh, got;
  const int error = co_await allocate_clusters(1, true, fresh, got);
  if (error != 0) co_return error;
  bool joined = false;
  if (at != 0 && bytes > room && fresh == at + room) joined = co_await share_cluster(at);
  const std::lock_guard lock(mutex_);
  if (virgin_from_ != ~uint64_t{0}) virgin_from_ = std::max(virgin_from_, fresh + cluster_bytes_);
  offset = joined ? at : fresh;
  const uint64_t end = offset + bytes;
  compressed_at_ = (end & cluster_mask()) == 0 ? 0 : end;
  co_return 0;
}

Task<int> Qcow2Node::write_compressed(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  if (!compresses()) co_return -ENOTSUP;
  if ((offset & cluster_mask()) != 0 || bytes > cluster_bytes_ || offset + bytes > align_up(size(), 512) ||
      (bytes < cluster_bytes_ && offset + bytes < size()))
    co_return -EINVAL;
  if (!prepared_) {
    const int error = co_await prepare_first_write();
    if (error != 0) co_return error;
  }
  if (corrupt_) co_return -EIO;
  bitmaps_->written(offset, bytes);
  const AlignedBuffer plain(cluster_bytes_), packed(cluster_bytes_);
  if (!plain || !packed) co_return -ENOMEM;
  copy_from(from, plain.data());
  std::memset(plain.data() + bytes, 0, cluster_bytes_ - bytes);
  size_t packed_bytes = 0;
  const bool zstd = header_.compression == 1;
  const std::span<const std::byte> source = plain.bytes();
  const std::span<std::byte> target = packed.bytes().first(cluster_bytes_ - 1);
  IoContext& context = *IoContext::current();
  const auto compress = [&] {
    packed_bytes = zstd ? zstd_cluster(source, target) : deflate_cluster(source, target);
  };
  co_await context.offload(compress);
  if (packed_bytes == 0) co_return co_await write_here(offset, from);  // it does not become smaller

  for (;;) {
    int error = co_await commit_if_much();
    if (error != 0) co_return error;
    Pin page;
    error = co_await load_own_l2(offset, page);
    if (error != 0) co_return error;
    Allocation allocation;
    uint64_t epoch;
    {
      std::unique_lock lock(mutex_);
      bool no_table = false;
      page = find_l2_locked(offset, no_table);
      if (!page) continue;
      if (Allocation* const before = find_allocation_locked(offset, offset + cluster_bytes_);
          before != nullptr) {
        page = Pin();
        co_await before->done.wait(lock);
        continue;
      }
      allocation.first = offset;
      allocation.end = offset + cluster_bytes_;
      allocating_.push_front(&allocation);
      allocation.place = allocating_.begin();
      epoch = epochs_.enter();
    }
    uint64_t place = 0;
    error = co_await allocate_compressed(packed_bytes, place);
    const bool placed = error == 0;
    if (placed) error = co_await write_bytes(*file_, place, packed.data(), packed_bytes);
    const unsigned shift = 62 - (cluster_bits_ - 8);
    const uint64_t more_sectors = (place + packed_bytes - 1) / 512 - place / 512;
    Entry entry;
    entry.word = kCompressed | more_sectors << shift | place;
    const std::lock_guard lock(mutex_);
    allocating_.erase(allocation.place);
    allocation.done.wake_all();
    epochs_.leave(epoch);
    if (error == 0) {
      give_up_locked(entry_locked(page, offset));
      set_entry_locked(page, offset, entry);
      // Another cluster may have lain in this place, with this descriptor. Who read that has ended
      // (epochs.h).
      if (decompressed_ && decompressed_->descriptor == entry.word) decompressed_ = nullptr;
    } else if (placed) {
      give_up_locked(entry);
    }
    co_return error;
  }
}

}  // namespace ostler::block::qcow2
