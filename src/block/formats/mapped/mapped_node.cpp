#include "block/formats/mapped/mapped_node.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace ostler::block {
namespace {

constexpr uint64_t kMostLookups = 4096;        // of one run
constexpr uint64_t kMostNewBytes = 64u << 20;  // that get space in one go
constexpr uint64_t kCopyBytes = 1u << 20;

}  // namespace

void MappedNode::set_geometry(uint64_t size, uint64_t cluster_bytes) {
  ASSERT(cluster_bytes != 0, "the format checked it");
  size_ = size;
  cluster_bytes_ = cluster_bytes;
}

Result<void> MappedNode::attach_file(NodePtr file) {
  const Permissions permissions = {.used = read_only_ ? kPermissionRead : kPermissionRead | kPermissionWrite,
                                   .shared = kPermissionsAll};
  TRY_ASSIGN(file_, Edge::attach(*this, std::move(file), "file", Role::kFile, permissions));
  return {};
}

Task<int> MappedNode::publish_zero(uint64_t, uint64_t) {
  co_return -ENOTSUP;
}

Task<int> MappedNode::read_packed(uint64_t, Place, std::byte*) {
  co_return -ENOTSUP;
}

Task<Result<void>> MappedNode::prepare_writing() {
  co_return Result<void>();
}

Task<int> MappedNode::run_at(uint64_t offset, uint64_t bytes, Place& place, uint64_t& run) {
  uint64_t cluster = offset / cluster_bytes_;
  const int error = co_await find(cluster, place);
  if (error != 0) co_return error;
  const uint64_t inside = offset % cluster_bytes_;
  // A format may tell more clusters than the disk has: `bytes` is the limit.
  const uint64_t most = (inside + bytes + cluster_bytes_ - 1) / cluster_bytes_;
  uint64_t alike = std::min(place.clusters, most);
  if (place.kind != Place::Kind::kCompressed) {
    for (unsigned lookups = 0; alike < most && lookups < kMostLookups; ++lookups) {
      Place next;
      if (co_await find(cluster + alike, next) != 0 || next.kind != place.kind) break;
      if (place.kind == Place::Kind::kData && next.offset != place.offset + alike * cluster_bytes_) break;
      alike = std::min(alike + next.clusters, most);
    }
  }
  run = std::min(bytes, alike * cluster_bytes_ - inside);
  co_return 0;
}

Task<int> MappedNode::read_below(uint64_t offset, Buffers to) {
  Node* const node = below();
  if (node == nullptr) {
    fill_zeroes(to);
    co_return 0;
  }
  co_return co_await node->read(offset + below_offset(), to);
}

Task<int> MappedNode::read_piece_packed(uint64_t offset, Buffers to, Place place) {
  const AlignedBuffer whole(cluster_bytes_);
  if (!whole) co_return -ENOMEM;
  const int error = co_await read_packed(offset / cluster_bytes_, place, whole.data());
  if (error == 0) copy_to(to, whole.data() + offset % cluster_bytes_);
  co_return error;
}

Task<int> MappedNode::read(uint64_t offset, Buffers to) {
  const uint64_t bytes = total_bytes(to);
  const uint64_t inside = std::min(bytes, size_ - std::min(size_, offset));
  if (inside != bytes) fill_zeroes(to, inside);
  for (uint64_t done = 0; done < inside;) {
    Place place;
    uint64_t run = 0;
    int error = co_await run_at(offset + done, inside - done, place, run);
    if (error != 0) co_return error;
    const Slice part(to, done, run);
    switch (place.kind) {
      case Place::Kind::kAbsent:
        error = co_await read_below(offset + done, part);
        break;
      case Place::Kind::kZero:
        fill_zeroes(part);
        break;
      case Place::Kind::kData:
        error = co_await file_->read(place.offset + (offset + done) % cluster_bytes_, part);
        break;
      case Place::Kind::kCompressed:
        error = co_await read_piece_packed(offset + done, part, place);
        break;
    }
    if (error != 0) co_return error;
    done += run;
  }
  co_return 0;
}

Task<int> MappedNode::write(uint64_t offset, Buffers from) {
  if (read_only_) co_return -EROFS;
  const uint64_t bytes = total_bytes(from);
  if (offset > size_ || bytes > size_ - offset) co_return -EINVAL;
  for (uint64_t done = 0; done < bytes;) {
    Place place;
    uint64_t run = 0;
    int error = co_await run_at(offset + done, bytes - done, place, run);
    if (error != 0) co_return error;
    const Slice part(from, done, run);
    if (place.kind == Place::Kind::kData)
      error = co_await file_->write(place.offset + (offset + done) % cluster_bytes_, part);
    else
      error = co_await write_new(offset + done, part, run);
    if (error != 0) co_return error;
    done += run;
  }
  co_return 0;
}

// `bytes` of the disk at `offset` go to `at` of the file: what was there, or zeros.
Task<int> MappedNode::fill_rest(uint64_t offset, uint64_t bytes, uint64_t at, bool old_content) {
  if (bytes == 0) co_return 0;
  if (!old_content) {
    const ZeroFlags flags = {.may_unmap = true};
    co_return co_await write_zeroes_anyhow(*file_, at, bytes, flags);
  }
  const AlignedBuffer piece(std::min(bytes, kCopyBytes));
  if (!piece) co_return -ENOMEM;
  while (bytes != 0) {
    const iovec whole{piece.data(), std::min<uint64_t>(bytes, piece.size())};
    int error = co_await read(offset, Buffers(&whole, 1));
    if (error == 0) error = co_await file_->write(at, Buffers(&whole, 1));
    if (error != 0) co_return error;
    offset += whole.iov_len;
    at += whole.iov_len;
    bytes -= whole.iov_len;
  }
  co_return 0;
}

Task<int> MappedNode::begin_change() {
  if (!prepared_) {
    auto prepared = co_await prepare_writing();
    if (!prepared) {
      if (!std::exchange(told_, true)) log::warning(prepared.error().message());
      co_return prepared.error().host_errno() != 0 ? -prepared.error().host_errno() : -EIO;
    }
    prepared_ = true;
  }
  if (tables_.changed() < TablePages::kMostChanged) co_return 0;
  co_return co_await store_tables();
}

Task<int> MappedNode::write_before_tables() {
  co_return 0;
}

// What is taken was published after its data were written: the first flush makes these stable. Nothing that
// the second one covers depends on other parts of it: a new table was zeros in the file before that.
Task<int> MappedNode::store_tables() {
  const auto turn = co_await storing_.lock();
  const std::vector<TablePages::Change> changes = tables_.take();
  int error = 0;
  if (!changes.empty()) {
    error = co_await write_before_tables();
    if (error == 0) error = co_await file_->flush();
    for (size_t i = 0; i < changes.size() && error == 0; ++i)
      error =
          co_await write_bytes(*file_, changes[i].offset, changes[i].bytes.data(), changes[i].bytes.size());
  }
  if (error == 0) error = co_await file_->flush();
  tables_.stored(error == 0);
  co_return error;
}

Task<int> MappedNode::flush() {
  // Of changes that another flush is storing, this one waits for the end.
  if (tables_.changed() != 0) co_return co_await store_tables();
  co_return co_await file_->flush();
}

Task<Result<void>> MappedNode::settle() {
  if (tables_.changed() == 0) co_return Result<void>();
  const int error = co_await store_tables();
  if (error != 0) co_return errno_error(filename() + ": its tables cannot be written", -error);
  co_return Result<void>();
}

Task<int> MappedNode::write_new(uint64_t offset, Buffers from, uint64_t& done) {
  const auto turn = co_await allocation_.lock();
  // Who had the turn before may have given these clusters a place.
  const uint64_t bytes = std::min(total_bytes(from), kMostNewBytes);
  Place place;
  int error = co_await begin_change();
  if (error == 0) error = co_await run_at(offset, bytes, place, done);
  if (error != 0) co_return error;
  if (place.kind == Place::Kind::kData) {
    const Slice part(from, 0, done);
    co_return co_await file_->write(place.offset + offset % cluster_bytes_, part);
  }
  const uint64_t first = offset / cluster_bytes_;
  uint64_t count = (offset + done - 1) / cluster_bytes_ - first + 1;
  uint64_t at = 0;
  error = co_await reserve(first, count, at);
  if (error != 0) co_return error;
  const uint64_t begin = first * cluster_bytes_, end = begin + count * cluster_bytes_;
  done = std::min(done, end - offset);
  const bool old_content =
      place.kind == Place::Kind::kCompressed || (place.kind == Place::Kind::kAbsent && below() != nullptr);
  error = co_await fill_rest(begin, offset - begin, at, old_content);
  if (error != 0) co_return error;
  const Slice part(from, 0, done);
  error = co_await file_->write(at + (offset - begin), part);
  if (error != 0) co_return error;
  const uint64_t written_end = offset + done;
  error = co_await fill_rest(written_end, end - written_end, at + (written_end - begin), old_content);
  if (error == 0) error = co_await publish(first, count, at);
  co_return error;
}

Task<int> MappedNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (read_only_) co_return -EROFS;
  if (offset > size_ || bytes > size_ - offset) co_return -EINVAL;
  while (bytes != 0) {
    Place place;
    uint64_t run = 0;
    int error = co_await run_at(offset, bytes, place, run);
    if (error != 0) co_return error;
    const bool shows_below = place.kind == Place::Kind::kAbsent && below() != nullptr;
    if (place.kind == Place::Kind::kData) {
      error = co_await write_zeroes_anyhow(*file_, place.offset + offset % cluster_bytes_, run, flags);
    } else if (shows_below || place.kind == Place::Kind::kCompressed) {
      // Whole clusters can be zero by their entry; the last one of a disk may be cut.
      const uint64_t end = offset + run;
      const bool whole = offset % cluster_bytes_ == 0 && run >= std::min(cluster_bytes_, size_ - offset);
      if (!whole) co_return -ENOTSUP;
      if (end != size_) run = run / cluster_bytes_ * cluster_bytes_;
      const auto turn = co_await allocation_.lock();
      uint64_t still = 0;
      error = co_await begin_change();
      if (error == 0) error = co_await run_at(offset, run, place, still);
      if (error != 0) co_return error;
      if (place.kind == Place::Kind::kData) continue;
      run = still;
      error = co_await publish_zero(offset / cluster_bytes_, (run + cluster_bytes_ - 1) / cluster_bytes_);
    }
    if (error != 0) co_return error;
    offset += run;
    bytes -= run;
  }
  co_return 0;
}

Task<int> MappedNode::discard(uint64_t offset, uint64_t bytes) {
  if (read_only_) co_return -EROFS;
  bytes = std::min(bytes, size_ - std::min(size_, offset));
  while (bytes != 0) {
    Place place;
    uint64_t run = 0;
    int error = co_await run_at(offset, bytes, place, run);
    if (error == 0 && place.kind == Place::Kind::kData)
      error = co_await file_->discard(place.offset + offset % cluster_bytes_, run);
    if (error != 0) co_return error;
    offset += run;
    bytes -= run;
  }
  co_return 0;
}

Task<int> MappedNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail,
                                   BlockStatus& status) {
  status = {};
  bytes = std::min(bytes, size_ - std::min(size_, offset));
  if (bytes == 0) co_return 0;
  Place place;
  const int error = co_await run_at(offset, bytes, place, status.bytes);
  if (error != 0) co_return error;
  status.allocated = place.kind != Place::Kind::kAbsent;
  status.zero = place.kind == Place::Kind::kZero || (!status.allocated && below() == nullptr);
  status.compressed = place.kind == Place::Kind::kCompressed;
  status.data = status.compressed || place.kind == Place::Kind::kData;
  if (place.kind != Place::Kind::kData) co_return 0;
  status.recurse = true;
  status.offset_valid = true;
  status.offset = place.offset + offset % cluster_bytes_;
  status.file = file_.node().get();
  if (detail == StatusDetail::kPrecise || (detail == StatusDetail::kLayout && fixed())) {
    BlockStatus lower;
    const int failed = co_await file_->block_status(status.offset, status.bytes, detail, lower);
    if (failed == 0 && lower.bytes != 0) {
      status.zero = lower.zero;
      status.bytes = std::min(status.bytes, lower.bytes);
    }
  }
  co_return 0;
}

Task<Result<void>> MappedNode::reopen(bool writable) {
  if (writable == !read_only_) co_return Result<void>();
  const PermissionMask used = writable ? kPermissionRead | kPermissionWrite : kPermissionRead;
  if (!writable) CO_TRY(co_await settle());
  if (writable) CO_TRY(file_.set_permissions({used, kPermissionsAll}));
  auto result = co_await file_->reopen(writable);
  if (!result) co_return result;
  if (!writable) CO_TRY(file_.set_permissions({used, kPermissionsAll}));
  read_only_ = !writable;
  prepared_ = false;
  co_return result;
}

}  // namespace ostler::block
