// The filter "copy-on-read": what is read from a backing file is written to the image above it, so that later
// reads do not go down again.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/driver.h"
#include "block/filters/filter.h"
#include "block/mutex.h"

namespace ostler::block {
namespace {

constexpr uint64_t kPiece = 1 << 20;

class CopyOnReadNode final : public FilterNode {
 public:
  CopyOnReadNode() : FilterNode("copy-on-read", "file") {}

  // A write that overlaps a copy must not come between its read and its write.
  Task<int> write(uint64_t offset, Buffers from) override {
    const SharedMutex::Shared shared = co_await copying_.lock_shared();
    co_return co_await child_->write(offset, from);
  }
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override {
    const SharedMutex::Shared shared = co_await copying_.lock_shared();
    co_return co_await child_->write_zeroes(offset, bytes, flags);
  }
  Task<int> discard(uint64_t offset, uint64_t bytes) override {
    const SharedMutex::Shared shared = co_await copying_.lock_shared();
    co_return co_await child_->discard(offset, bytes);
  }

  Task<int> read(uint64_t offset, Buffers to) override {
    const uint64_t end = offset + total_bytes(to);
    uint64_t at = offset;
    while (at < end) {
      BlockStatus status;
      int error = co_await child_->block_status(at, end - at, StatusDetail::kQuick, status);
      if (error != 0) co_return error;
      if (status.bytes == 0) co_return -EIO;
      const uint64_t run = std::min(status.bytes, end - at);
      if (!status.allocated && !child_->read_only()) {
        error = co_await copy(at, run);
        // The copy is a favour: a full disk does not make the read fail.
        if (error != 0 && error != -ENOSPC) co_return error;
      }
      const Slice part(to, at - offset, run);
      error = co_await child_->read(at, part);
      if (error != 0) co_return error;
      at += run;
    }
    co_return 0;
  }

 private:
  Task<int> copy(uint64_t offset, uint64_t bytes) {
    const uint64_t unit = std::max<uint64_t>(child_->limits().cluster_bytes, 512);
    const uint64_t begin = align_down(offset, unit);
    const uint64_t end = std::min(align_up(offset + bytes, unit), child_->size());
    const AlignedBuffer buffer(std::min(end - begin, std::max(kPiece, unit)));
    if (!buffer) co_return -ENOMEM;
    for (uint64_t at = begin; at < end;) {
      const SharedMutex::Exclusive alone = co_await copying_.lock();
      BlockStatus status;
      int error = co_await child_->block_status(at, end - at, StatusDetail::kQuick, status);
      if (error != 0) co_return error;
      const uint64_t run = std::min({status.bytes, end - at, buffer.size()});
      if (run == 0) co_return -EIO;
      if (!status.allocated) {
        error = co_await read_bytes(*child_, at, buffer.data(), run);
        if (error == 0) error = co_await write_bytes(*child_, at, buffer.data(), run);
        if (error != 0) co_return error;
      }
      at += run;
    }
    co_return 0;
  }
  SharedMutex copying_;
};

Task<Result<NodePtr>> open_copy_on_read(OpenRequest request) {
  auto child = co_await request.open_child("file");
  if (!child) co_return std::move(child).error();
  CO_TRY(request.options.finish());
  auto node = std::make_shared<CopyOnReadNode>();
  Permissions permissions = pass_through_permissions(request.flags.writable);
  permissions.used |= kPermissionWriteUnchanged;
  CO_TRY(node->connect(*std::move(child), permissions));
  co_return NodePtr(std::move(node));
}

}  // namespace

extern const Driver kCopyOnReadDriver;
const Driver kCopyOnReadDriver = {
    .name = "copy-on-read", .kind = DriverKind::kFilter, .open = open_copy_on_read};

}  // namespace ostler::block
