#include "block/overlay_node.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>

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

// The part [from, from + length) of `iov`.
std::vector<iovec> slice(std::span<const iovec> iov, uint64_t from, uint64_t length) {
  std::vector<iovec> part;
  for (const iovec& piece : iov) {
    if (length == 0) break;
    if (from >= piece.iov_len) {
      from -= piece.iov_len;
      continue;
    }
    const uint64_t take = std::min<uint64_t>(piece.iov_len - from, length);
    part.push_back({static_cast<char*>(piece.iov_base) + from, take});
    length -= take;
    from = 0;
  }
  return part;
}

}  // namespace

Result<std::shared_ptr<OverlayNode>> OverlayNode::create(WorkerPool& pool, std::shared_ptr<BlockingNode> base,
                                                         const std::string& folder) {
  std::string place = folder;
  if (place.empty()) {
    const char* set = getenv("TMPDIR");
    place = set != nullptr && *set != 0 ? set : "/var/tmp";
  }
  TRY_ASSIGN(Fd fd, temporary_file(place));
  uint64_t granule = kSmallestGranule;
  while (base->size() / granule > kMostGranules) granule *= 2;
  const uint64_t size = base->size();
  if (ftruncate(fd.get(), static_cast<off_t>(align_up(size, granule))) != 0)
    return errno_error("snapshot=on: the temporary file in " + place + " cannot be made as large as the disk",
                       errno);
  auto changes = std::make_shared<FileNode>(pool, base->name() + " (changes)", std::move(fd),
                                            align_up(size, granule), false);
  return std::make_shared<OverlayNode>(pool, std::move(base), std::move(changes), granule);
}

OverlayNode::OverlayNode(WorkerPool& pool, std::shared_ptr<BlockingNode> base,
                         std::shared_ptr<FileNode> changes, uint64_t granule)
    : BlockingNode(pool),
      base_(std::move(base)),
      changes_(std::move(changes)),
      granule_(granule),
      map_((base_->size() / granule + 1 + 63) / 64) {}

void OverlayNode::set_changed(uint64_t first, uint64_t end) {
  for (uint64_t index = first; index < end; ++index) map_[index / 64].fetch_or(uint64_t{1} << (index % 64));
}

int OverlayNode::read_now(uint64_t offset, std::span<const iovec> iov, bool wait) {
  const uint64_t length = total_bytes(iov);
  uint64_t done = 0;
  while (done < length) {
    // A run of granules that the same file holds.
    const uint64_t begin = offset + done;
    const bool from_changes = changed(begin / granule_);
    uint64_t end = align_down(begin, granule_) + granule_;
    while (end < offset + length && changed(end / granule_) == from_changes) end += granule_;
    const uint64_t run = std::min(end, offset + length) - begin;
    const auto part = slice(iov, done, run);
    BlockingNode& node = from_changes ? static_cast<BlockingNode&>(*changes_) : *base_;
    if (const int error = node.read_now(begin, part, wait); error != 0) return error;
    done += run;
  }
  return 0;
}

int OverlayNode::copy_up_locked(uint64_t index) {
  if (changed(index)) return 0;
  const uint64_t at = index * granule_;
  std::vector<std::byte> buffer(granule_);
  const uint64_t size = std::min(granule_, base_->size() - at);
  const iovec whole{buffer.data(), size};
  if (const int error = base_->read_now(at, std::span(&whole, 1), true); error != 0) return error;
  if (const int error = changes_->write_now(at, std::span(&whole, 1), true); error != 0) return error;
  set_changed(index, index + 1);
  return 0;
}

int OverlayNode::prepare(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const bool head = offset % granule_ != 0 && !changed(offset / granule_);
  // The disk's last granule may be short: written to its end, it is whole.
  const bool tail = end % granule_ != 0 && end != size() && !changed(end / granule_);
  if (!head && !tail) return 0;
  const std::unique_lock alone(copy_mutex_);
  if (head)
    if (const int error = copy_up_locked(offset / granule_); error != 0) return error;
  return tail ? copy_up_locked(end / granule_) : 0;
}

template <class Write>
int OverlayNode::change(uint64_t offset, uint64_t length, Write&& write) {
  if (const int error = prepare(offset, length); error != 0) return error;
  const std::shared_lock shared(copy_mutex_);
  if (const int error = write(); error != 0) return error;
  set_changed(offset / granule_, (offset + length + granule_ - 1) / granule_);
  return 0;
}

int OverlayNode::write_now(uint64_t offset, std::span<const iovec> iov, bool wait) {
  const uint64_t length = total_bytes(iov);
  if (length == 0) return 0;
  if (!wait && (offset % granule_ != 0 || length % granule_ != 0)) return EAGAIN;
  return change(offset, length, [&] { return changes_->write_now(offset, iov, wait); });
}

int OverlayNode::discard_now(uint64_t offset, uint64_t length) {
  // Whole changed granules give their space back and read as zeros; the rest may keep its content.
  const uint64_t first = align_up(offset, granule_), end = align_down(offset + length, granule_);
  for (uint64_t at = first; at < end;) {
    if (!changed(at / granule_)) {
      at += granule_;
      continue;
    }
    uint64_t run = granule_;
    while (at + run < end && changed((at + run) / granule_)) run += granule_;
    if (const int error = changes_->discard_now(at, run); error != 0) return error;
    at += run;
  }
  return 0;
}

int OverlayNode::write_zeroes_now(uint64_t offset, uint64_t length, bool) {
  if (length == 0) return 0;
  // Never fills the host's disk with zeros: the file is sparse.
  return change(offset, length, [&] { return changes_->write_zeroes_now(offset, length, true); });
}

}  // namespace ostler::block
