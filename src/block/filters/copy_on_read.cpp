// The filter "copy-on-read": what is read from a backing file is written to the image above it, so that later
// reads do not go down again. With `bottom`, only what comes from that node or one above it.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/driver.h"
#include "block/filters/filter.h"
#include "block/mutex.h"

namespace ostler::block {
namespace {

constexpr uint64_t kPiece = 1 << 20;

bool in_chain(const NodePtr& top, const NodePtr& node) {
  for (NodePtr each = skip_filters(top); each; each = next_in_chain(each))
    if (each == node) return true;
  return false;
}

class CopyOnReadNode final : public FilterNode {
 public:
  // `bottom`: null for no limit.
  explicit CopyOnReadNode(const NodePtr& bottom)
      : FilterNode("copy-on-read", "file"), limited_(bottom != nullptr), bottom_(bottom) {}

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
      uint64_t run = std::min(status.bytes, end - at);
      bool wanted = !status.allocated && !child_->read_only();
      if (wanted && limited_) error = co_await comes_from_above(at, run, wanted);
      if (error != 0) co_return error;
      if (wanted) {
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

  nlohmann::json options() const override {
    nlohmann::json result = Node::options();
    if (const NodePtr bottom = bottom_.lock()) result["bottom"] = bottom->name();
    return result;
  }

 private:
  // Whether what the image does not have comes from the bottom node or one above, for `bytes`, which it
  // shortens. A bottom node that has left the chain lets nothing be copied.
  Task<int> comes_from_above(uint64_t offset, uint64_t& bytes, bool& above) {
    above = false;
    const NodePtr bottom = bottom_.lock();
    if (!bottom || !in_chain(child_.node(), bottom)) co_return 0;
    NodePtr node = skip_filters(child_.node());
    while (node && node != bottom && !above) {
      node = next_in_chain(node);
      if (!node || offset >= node->size()) co_return 0;
      BlockStatus status;
      const uint64_t most = std::min(bytes, node->size() - offset);
      const int error = co_await node->block_status(offset, most, StatusDetail::kQuick, status);
      if (error != 0) co_return error;
      if (status.bytes == 0) co_return -EIO;
      bytes = std::min(most, status.bytes);
      above = status.allocated;
    }
    co_return 0;
  }
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
  const bool limited_;
  const std::weak_ptr<Node> bottom_;
  SharedMutex copying_;
};

Task<Result<NodePtr>> open_copy_on_read(OpenRequest request) {
  auto child = co_await request.open_child("file");
  if (!child) co_return std::move(child).error();
  CO_TRY_ASSIGN(const auto name, request.options.string("bottom"));
  CO_TRY(request.options.finish());
  NodePtr bottom;
  if (name) {
    bottom = request.opener.find(*name);
    if (!bottom || !in_chain(*child, bottom))
      co_return request.options.error(
          "bottom",
          fmt::format("is '{}', which is neither the node-name of {} nor that of one of its backing "
                      "images",
                      *name, (*child)->filename()));
  }
  auto node = std::make_shared<CopyOnReadNode>(bottom);
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
