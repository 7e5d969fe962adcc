#include "block/filters/overlay_node.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/bytes.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSmallestGranule = 4096;
constexpr uint64_t kMostGranules = uint64_t{1} << 24;

Result<Fd> temporary_file(const std::string& folder) {
  Fd fd(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd) return fd;
  // File systems without O_TMPFILE.
  std::string path = folder + "/ostler-snapshot-XXXXXX";
  fd.reset(mkostemp(path.data(), O_CLOEXEC));
  if (!fd)
    return errno_error(
        "snapshot=on needs a temporary file in " + folder + "; set TMPDIR to a folder with room", errno);
  unlink(path.c_str());
  return fd;
}

}  // namespace

Result<std::shared_ptr<OverlayNode>> OverlayNode::create(NodePtr base, const std::string& folder) {
  std::string place = folder;
  if (place.empty()) {
    const char* set = getenv("TMPDIR");
    place = set != nullptr && *set != 0 ? set : "/var/tmp";
  }
  TRY_ASSIGN(Fd fd, temporary_file(place));
  const uint64_t size = align_up(base->size(), 512);
  uint64_t granule = kSmallestGranule;
  while (size / granule > kMostGranules) granule *= 2;
  if (ftruncate(fd.get(), static_cast<off_t>(align_up(size, granule))) != 0)
    return errno_error("snapshot=on: the temporary file in " + place + " cannot be made as large as the disk",
                       errno);
  FileOptions options;
  options.path = base->filename() + " (changes)";
  auto changes = std::make_shared<FileNode>(options, std::move(fd), align_up(size, granule), false);
  auto node = std::make_shared<OverlayNode>(size, granule);
  TRY_ASSIGN(node->base_,
             Edge::attach(*node, std::move(base), "backing", Role::kBacking,
                          {.used = kPermissionRead, .shared = kPermissionRead | kPermissionWriteUnchanged}));
  TRY_ASSIGN(node->changes_, Edge::attach(*node, std::move(changes), "file", Role::kFile,
                                          {.used = kPermissionRead | kPermissionWrite, .shared = 0}));
  return node;
}

OverlayNode::OverlayNode(uint64_t size, uint64_t granule)
    : Node("overlay"), size_(size), granule_(granule), map_((size / granule + 1 + 63) / 64) {}

void OverlayNode::set_changed(uint64_t offset, uint64_t bytes) {
  const uint64_t end = (offset + bytes + granule_ - 1) / granule_;
  for (uint64_t index = offset / granule_; index < end; ++index)
    map_[index / 64].fetch_or(uint64_t{1} << (index % 64));
}

uint64_t OverlayNode::run_end(uint64_t begin, uint64_t end) const {
  const bool from_changes = changed(begin / granule_);
  uint64_t at = align_down(begin, granule_) + granule_;
  while (at < end && changed(at / granule_) == from_changes) at += granule_;
  return std::min(at, end);
}

Task<int> OverlayNode::read(uint64_t offset, Buffers to) {
  const uint64_t end = offset + total_bytes(to);
  for (uint64_t at = offset; at < end;) {
    const uint64_t until = run_end(at, end);
    Node& node = changed(at / granule_) ? *changes_ : *base_;
    const Slice part(to, at - offset, until - at);
    const int error = co_await node.read(at, part);
    if (error != 0) co_return error;
    at = until;
  }
  co_return 0;
}

int OverlayNode::try_read(uint64_t offset, Buffers to) {
  const uint64_t end = offset + total_bytes(to);
  for (uint64_t at = offset; at < end;) {
    const uint64_t until = run_end(at, end);
    Node& node = changed(at / granule_) ? *changes_ : *base_;
    const Slice part(to, at - offset, until - at);
    if (const int error = node.try_read(at, part); error != 0) return error;
    at = until;
  }
  return 0;
}

Task<int> OverlayNode::copy_up(uint64_t index) {
  if (changed(index)) co_return 0;
  const uint64_t at = index * granule_;
  const AlignedBuffer buffer(granule_);
  if (!buffer) co_return -ENOMEM;
  const uint64_t bytes = std::min(granule_, size_ - at);
  int error = co_await read_bytes(*base_, at, buffer.data(), bytes);
  if (error == 0) error = co_await write_bytes(*changes_, at, buffer.data(), bytes);
  if (error == 0) set_changed(at, 1);
  co_return error;
}

bool OverlayNode::has_partial_granule(uint64_t offset, uint64_t bytes) const {
  const uint64_t end = offset + bytes;
  // The disk's last granule may be short: written to its end, it is whole.
  return (offset % granule_ != 0 && !changed(offset / granule_)) ||
         (end % granule_ != 0 && end != size_ && !changed(end / granule_));
}

Task<int> OverlayNode::prepare(uint64_t offset, uint64_t bytes) {
  if (!has_partial_granule(offset, bytes)) co_return 0;
  const uint64_t end = offset + bytes;
  const SharedMutex::Exclusive alone = co_await copying_.lock();
  if (offset % granule_ != 0) {
    const int error = co_await copy_up(offset / granule_);
    if (error != 0) co_return error;
  }
  if (end % granule_ != 0 && end != size_) co_return co_await copy_up(end / granule_);
  co_return 0;
}

Task<int> OverlayNode::write(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  if (bytes == 0) co_return 0;
  int error = co_await prepare(offset, bytes);
  if (error != 0) co_return error;
  const SharedMutex::Shared shared = co_await copying_.lock_shared();
  error = co_await changes_->write(offset, from);
  if (error == 0) set_changed(offset, bytes);
  co_return error;
}

int OverlayNode::try_write(uint64_t offset, Buffers from) {
  const uint64_t bytes = total_bytes(from);
  if (bytes == 0) return 0;
  SharedMutex::Shared shared;
  if (has_partial_granule(offset, bytes) || !copying_.try_lock_shared(shared)) return -EAGAIN;
  const int error = changes_->try_write(offset, from);
  if (error == 0) set_changed(offset, bytes);
  return error;
}

Task<int> OverlayNode::flush() {
  co_return 0;
}

Task<int> OverlayNode::discard(uint64_t offset, uint64_t bytes) {
  // Whole changed granules give their space back and read as zeros; the rest may keep its content.
  const uint64_t end = align_down(offset + bytes, granule_);
  for (uint64_t at = align_up(offset, granule_); at < end;) {
    const uint64_t until = run_end(at, end);
    if (changed(at / granule_)) {
      const int error = co_await changes_->discard(at, until - at);
      if (error != 0) co_return error;
    }
    at = until;
  }
  co_return 0;
}

Task<int> OverlayNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (bytes == 0) co_return 0;
  int error = co_await prepare(offset, bytes);
  if (error != 0) co_return error;
  const SharedMutex::Shared shared = co_await copying_.lock_shared();
  flags.may_unmap = true;  // never fills the host's disk with zeros: the file is sparse
  error = co_await changes_->write_zeroes(offset, bytes, flags);
  if (error == 0) set_changed(offset, bytes);
  co_return error;
}

Task<int> OverlayNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail,
                                    BlockStatus& status) {
  const uint64_t until = run_end(offset, offset + bytes);
  if (changed(offset / granule_))
    co_return co_await changes_->block_status(offset, until - offset, detail, status);
  status = {};
  status.bytes = until - offset;
  co_return 0;
}

}  // namespace ostler::block
