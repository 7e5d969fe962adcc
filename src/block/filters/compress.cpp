#include "block/filters/compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/driver.h"
#include "block/mutex.h"

namespace ostler::block {
namespace {

constexpr unsigned kSideBySide = 4;  // clusters of one request that are compressed at a time

}  // namespace

Permissions CompressNode::permissions(bool writable) {
  Permissions permissions = pass_through_permissions(writable);
  if (writable) permissions.shared &= ~kPermissionWrite;
  return permissions;
}

Limits CompressNode::limits() const {
  Limits limits = child_->limits();
  limits.request_alignment = std::max(
      limits.request_alignment, static_cast<uint32_t>(std::min<uint64_t>(limits.cluster_bytes, 1u << 30)));
  return limits;
}

uint64_t CompressNode::end() const {
  return align_up(child_->size(), 512);
}

void CompressNode::cancel() {
  ++cancels_;
  FilterNode::cancel();
}

Task<int> CompressNode::hold(uint64_t offset, uint64_t bytes, RangeLocks::Guard& range) {
  const unsigned cancels = cancels_;
  const uint64_t unit = std::max<uint64_t>(cluster(), 1);
  // To the end of a cluster: all that is written in one overlaps there.
  const uint64_t last = (offset + bytes + unit - 1) / unit * unit;
  range = co_await writing_.lock(offset, last - offset, RangeLocks::Mode::kExclusive);
  if (cancels_ != cancels) co_return -ECANCELED;
  co_return offset > end() || bytes > end() - offset ? -EINVAL : 0;
}

// A whole cluster, of which `from` changes bytes from `offset` on.
Task<int> CompressNode::write_cluster(uint64_t begin, uint64_t length, uint64_t offset, Buffers from) {
  if (total_bytes(from) == length) co_return co_await child_->write_compressed(begin, from);
  const AlignedBuffer content(length);
  if (!content) co_return -ENOMEM;
  const int error = co_await read_bytes(*child_, begin, content.data(), length);
  if (error != 0) co_return error;
  copy_from(from, content.data() + (offset - begin));
  const iovec whole = content.as_iovec();
  co_return co_await child_->write_compressed(begin, Buffers(&whole, 1));
}

// Within one cluster.
Task<int> CompressNode::write_part(uint64_t unit, uint64_t offset, Buffers whole, uint64_t from,
                                   uint64_t bytes) {
  const uint64_t begin = offset - offset % unit, length = std::min(unit, end() - begin);
  const Slice part(whole, from, bytes);
  int error = co_await write_cluster(begin, length, offset, part);
  // A job has put another image there, which does not compress.
  if (error == -ENOTSUP) error = co_await child_->write(offset, part);
  co_return error;
}

Task<int> CompressNode::write(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  RangeLocks::Guard range;
  int error = co_await hold(offset, bytes, range);
  if (error != 0) co_return error;
  const uint64_t unit = cluster();
  if (unit == 0) co_return co_await child_->write(offset, from);
  TaskGroup group(kSideBySide);
  for (uint64_t done = 0; done < bytes && error == 0;) {
    const uint64_t at = offset + done;
    const uint64_t run = std::min(bytes - done, unit - at % unit);
    error = co_await group.start(write_part(unit, at, from, done, run));
    done += run;
  }
  co_return co_await group.wait();
}

Task<int> CompressNode::zero_part(uint64_t unit, uint64_t offset, uint64_t bytes) {
  if (bytes == 0) co_return 0;
  const AlignedBuffer zeroes(bytes);
  if (!zeroes) co_return -ENOMEM;
  const iovec piece = zeroes.as_iovec();
  fill_zeroes(Buffers(&piece, 1));
  co_return co_await write_part(unit, offset, Buffers(&piece, 1), 0, bytes);
}

// The image knows zeros without storing them, in whole clusters; zeros in a part are a write to the rest.
Task<int> CompressNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  RangeLocks::Guard range;
  int error = co_await hold(offset, bytes, range);
  if (error != 0) co_return error;
  const uint64_t unit = cluster(), last = offset + bytes;
  if (unit == 0 || flags.no_fallback) co_return co_await child_->write_zeroes(offset, bytes, flags);
  const uint64_t first_whole = std::min((offset + unit - 1) / unit * unit, last);
  const uint64_t end_whole = last == end() ? last : std::max(last / unit * unit, first_whole);
  if (end_whole > first_whole) {
    error = co_await child_->write_zeroes(first_whole, end_whole - first_whole, flags);
    if (error != 0) co_return error;
  }
  error = co_await zero_part(unit, offset, first_whole - offset);
  if (error != 0) co_return error;
  co_return co_await zero_part(unit, end_whole, last - end_whole);
}

Task<int> CompressNode::write_compressed(uint64_t offset, Buffers from) {
  RangeLocks::Guard range;
  const int error = co_await hold(offset, total_bytes(from), range);
  if (error != 0) co_return error;
  co_return co_await child_->write_compressed(offset, from);
}

Task<Result<void>> CompressNode::truncate(uint64_t size, Preallocation preallocation) {
  const auto all = co_await writing_.lock(0, ~uint64_t{0}, RangeLocks::Mode::kExclusive);
  auto result = co_await child_->truncate(size, preallocation);
  co_return result;
}

Task<Result<void>> CompressNode::reopen(bool writable) {
  if (writable) CO_TRY(child_.set_permissions(permissions(true)));
  auto result = co_await child_->reopen(writable);
  if (!writable && result) CO_TRY(child_.set_permissions(permissions(false)));
  co_return result;
}

namespace {

Task<Result<NodePtr>> open_compress(OpenRequest request) {
  auto child = co_await request.open_child("file");
  if (!child) co_return std::move(child).error();
  CO_TRY(request.options.finish());
  if (!(*child)->compresses())
    co_return Error(
        ErrorKind::kUnsupported,
        fmt::format("compress: the node '{}' ({}, driver '{}') cannot store compressed clusters; put "
                    "the filter on a qcow2 image without encryption or data file",
                    (*child)->name(), (*child)->filename(), (*child)->driver()),
        ENOTSUP);
  auto node = std::make_shared<CompressNode>();
  CO_TRY(node->connect(*std::move(child), CompressNode::permissions(request.flags.writable)));
  co_return NodePtr(std::move(node));
}

}  // namespace

extern const Driver kCompressDriver;
const Driver kCompressDriver = {.name = "compress", .kind = DriverKind::kFilter, .open = open_compress};

}  // namespace ostler::block
