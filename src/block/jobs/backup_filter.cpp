#include "block/jobs/backup_filter.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/jobs/copy_job.h"

namespace ostler::block {

BackupFilter::BackupFilter(std::shared_ptr<DirtyBitmap> left, Settings settings)
    : JobFilter("copy-before-write"), left_(std::move(left)), settings_(settings) {}

Result<void> BackupFilter::connect_target(NodePtr target) {
  TRY_ASSIGN(target_, Edge::attach(*this, std::move(target), "target", Role::kData,
                                   {.used = kPermissionRead | kPermissionWrite,
                                    .shared = kPermissionRead | kPermissionWriteUnchanged}));
  return {};
}

std::vector<const Edge*> BackupFilter::children() const {
  if (target_) return {&child_, &target_};
  return {&child_};
}

nlohmann::json BackupFilter::options() const {
  return child_->options();
}

Task<int> BackupFilter::zero_target(uint64_t offset, uint64_t bytes) {
  const ZeroFlags flags = {.may_unmap = true};
  while (bytes != 0) {
    ChainStatus status;
    int error = co_await chain_status(target_.node(), nullptr, offset, bytes, StatusDetail::kPrecise, status);
    if (error != 0) co_return error;
    const uint64_t run = std::min(status.bytes, bytes);
    if (!status.zero) error = co_await write_zeroes_anyhow(*target_, offset, run, flags);
    if (error != 0) co_return error;
    offset += run;
    bytes -= run;
  }
  co_return 0;
}

Task<int> BackupFilter::write_target(uint64_t offset, uint64_t bytes, const std::byte* from) {
  if (!settings_.compress) co_return co_await write_bytes(*target_, offset, from, bytes);
  const uint64_t cluster = std::max<uint64_t>(target_->limits().cluster_bytes, 512);
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t piece = std::min(cluster, bytes - done);
    const iovec one{const_cast<std::byte*>(from) + done, piece};
    int error = 0;
    if (all_zeroes(from + done, piece))
      error = co_await zero_target(offset + done, piece);
    else
      error = co_await target_->write_compressed(offset + done, Buffers(&one, 1));
    if (error != 0) co_return error;
    done += piece;
  }
  co_return 0;
}

Task<BackupFilter::Failure> BackupFilter::copy_locked(uint64_t offset, uint64_t bytes, std::byte* buffer) {
  const uint64_t end = offset + bytes;
  Failure failure;
  for (uint64_t at = offset, begin = 0, run = 0;
       at < end && left_->next(at, end - at, begin, run) && begin < end; at = begin + run) {
    failure = {.is_read = true, .offset = begin};
    run = std::min(run, end - begin);
    ChainStatus status;
    failure.error = co_await chain_status(child_.node(), nullptr, begin, run, StatusDetail::kPrecise, status);
    if (failure.error != 0) co_return failure;
    // Bits are of whole granules: one that is partly a hole is copied as data.
    const uint64_t granule = left_->granularity();
    if (status.bytes < run) run = std::min(run, std::max(granule, align_down(status.bytes, granule)));
    bool zero = status.zero && status.bytes >= run;
    if (!zero) {
      failure.error = co_await read_bytes(*child_, begin, buffer, run);
      if (failure.error != 0) co_return failure;
      zero = all_zeroes(buffer, run);
    }
    failure.is_read = false;
    if (zero)
      failure.error = co_await zero_target(begin, run);
    else
      failure.error = co_await write_target(begin, run, buffer);
    if (failure.error != 0) co_return failure;
    left_->clear(begin, run);
  }
  co_return Failure();
}

Task<BackupFilter::Failure> BackupFilter::copy(uint64_t offset, uint64_t bytes, std::byte* buffer) {
  const auto range = co_await ranges_.lock(offset, bytes, RangeLocks::Mode::kExclusive);
  co_return co_await copy_locked(offset, bytes, buffer);
}

// The place is not read by the job any more once its bit is clear, so that the write needs no lock.
Task<int> BackupFilter::before_write(uint64_t offset, uint64_t bytes) {
  const uint64_t granule = left_->granularity(), disk = left_->disk_bytes();
  const uint64_t end = std::min(align_up(offset + bytes, granule), disk);
  const uint64_t most = std::max(granule, CopyJob::kPiece / granule * granule);
  AlignedBuffer buffer;
  for (uint64_t at = align_down(offset, granule); at < end && broken_ == 0; at += most) {
    const uint64_t piece = std::min(most, end - at);
    const auto range = co_await ranges_.lock(at, piece, RangeLocks::Mode::kExclusive);
    if (!left_->any(at, piece)) continue;
    if (!buffer) buffer = AlignedBuffer(std::min(most, end - align_down(offset, granule)));
    Failure failure = {.error = -ENOMEM};
    if (buffer) failure = co_await copy_locked(at, piece, buffer.data());
    if (failure.error == 0) continue;
    if (settings_.on_error == OnCbwError::kBreakGuestWrite) co_return failure.error;
    if (break_with(failure.error) && on_broken_) on_broken_(failure.error);
  }
  co_return 0;
}

Task<int> BackupFilter::write(uint64_t offset, Buffers from) {
  const int error = co_await before_write(offset, total_bytes(from));
  if (error != 0) co_return error;
  co_return co_await child_->write(offset, from);
}

Task<int> BackupFilter::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const int error = co_await before_write(offset, bytes);
  if (error != 0) co_return error;
  co_return co_await child_->write_zeroes(offset, bytes, flags);
}

Task<int> BackupFilter::discard(uint64_t offset, uint64_t bytes) {
  const int error = co_await before_write(offset, bytes);
  if (error != 0) co_return error;
  co_return co_await child_->discard(offset, bytes);
}

Task<int> BackupFilter::write_compressed(uint64_t offset, Buffers from) {
  const int error = co_await before_write(offset, total_bytes(from));
  if (error != 0) co_return error;
  co_return co_await child_->write_compressed(offset, from);
}

Task<int> BackupFilter::read_snapshot(uint64_t offset, Buffers to) {
  const uint64_t end = offset + total_bytes(to);
  for (uint64_t at = offset; at < end;) {
    const uint64_t piece = std::min(end - at, CopyJob::kPiece);
    // Writers that would change what is read from the source wait.
    const auto range = co_await ranges_.lock(at, piece, RangeLocks::Mode::kShared);
    if (broken_ != 0) co_return -EIO;
    uint64_t begin = 0, run = 0;
    const bool found = left_->next(at, piece, begin, run);
    const bool from_source = found && begin <= at;
    uint64_t length = piece;
    if (from_source)
      length = std::min(run, piece);
    else if (found && begin < at + piece)
      length = begin - at;
    const Slice part(to, at - offset, length);
    int error = 0;
    if (from_source)
      error = co_await child_->read(at, part);
    else
      error = co_await target_->read(at, part);
    if (error != 0) co_return error;
    at += length;
  }
  co_return 0;
}

SnapshotAccessNode::SnapshotAccessNode(uint64_t size, std::string filename)
    : Node("snapshot-access"), size_(size), filename_(std::move(filename)) {}

Result<void> SnapshotAccessNode::connect(std::shared_ptr<BackupFilter> filter) {
  TRY_ASSIGN(source_, Edge::attach(*this, filter, "file", Role::kData,
                                   {.used = kPermissionRead, .shared = kPermissionsAll}));
  filter_ = std::move(filter);
  return {};
}

void SnapshotAccessNode::end() {
  filter_ = nullptr;
  source_.detach();
}

std::vector<const Edge*> SnapshotAccessNode::children() const {
  if (source_) return {&source_};
  return {};
}

nlohmann::json SnapshotAccessNode::options() const {
  return {{"driver", driver()}};
}

Task<int> SnapshotAccessNode::read(uint64_t offset, Buffers to) {
  if (!filter_) co_return -EIO;
  const uint64_t total = total_bytes(to);
  const uint64_t inside = offset < size_ ? std::min(total, size_ - offset) : 0;
  fill_zeroes(to, inside);
  const Slice part(to, 0, inside);
  co_return co_await filter_->read_snapshot(offset, part);
}

}  // namespace ostler::block
