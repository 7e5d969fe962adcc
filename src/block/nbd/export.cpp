#include "block/nbd/export.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/capabilities.h"
#include "block/jobs/bitmaps.h"
#include "block/nbd/protocol.h"

namespace ostler::block::nbd {

Export::Export(std::shared_ptr<Client> client, Settings settings)
    : client_(std::move(client)), settings_(std::move(settings)) {
  contexts_.push_back({MetaContext::Kind::kAllocation, "base:allocation", {}});
  if (settings_.allocation_depth)
    contexts_.push_back({MetaContext::Kind::kAllocationDepth, "qemu:allocation-depth", {}});
  for (const std::string& bitmap : settings_.bitmaps)
    contexts_.push_back({MetaContext::Kind::kDirtyBitmap, "qemu:dirty-bitmap:" + bitmap, bitmap});
}

Result<std::shared_ptr<Export>> Export::create(std::shared_ptr<Client> client, Settings settings) {
  if (settings.name.size() > kMostName || settings.description.size() > kMostName)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the name and the description of an export have at most {} bytes", kMostName));
  const std::lock_guard lock(graph_mutex());
  for (const std::string& name : settings.bitmaps) {
    const auto list = list_bitmaps(client->node());
    const auto found = std::ranges::find(list, name, &BitmapInfo::name);
    if (found == list.end())
      return Error(ErrorKind::kNotFound,
                   fmt::format("{}: it has no bitmap '{}'", client->node()->filename(), name));
    if (found->in_use)
      return Error(ErrorKind::kCorrupt,
                   fmt::format("{}: bitmap '{}' was not stored properly and cannot be exported; remove it",
                               client->node()->filename(), name));
  }
  return std::shared_ptr<Export>(new Export(std::move(client), std::move(settings)));
}

uint16_t Export::transmission_flags(bool structured) const {
  unsigned flags = kHasFlags | kSendFlush | kSendFua | kSendCache;
  flags |= read_only() ? kReadOnly : kSendTrim | kSendWriteZeroes | kSendFastZero;
  if (settings_.multi_conn) flags |= kCanMultiConn;
  if (structured) flags |= kSendDf;
  return static_cast<uint16_t>(flags);
}

// Within a request.
int Export::dirty_extent(const MetaContext& context, uint64_t offset, uint32_t bytes, Extent& extent) const {
  const auto bitmaps = find_bitmap(client_->node(), context.bitmap);
  if (!bitmaps) return -EIO;
  uint64_t begin = 0, end = 0;
  const auto found = (*bitmaps)->next_dirty(context.bitmap, offset, begin, end);
  if (!found) return -EIO;
  begin = std::max(begin, offset);
  if (!*found || begin >= offset + bytes)
    extent = {bytes, 0};
  else if (begin > offset)
    extent = {static_cast<uint32_t>(begin - offset), 0};
  else
    extent = {static_cast<uint32_t>(std::min<uint64_t>(end - offset, bytes)), kStateDirty};
  return extent.bytes != 0 ? 0 : -EIO;
}

Task<int> Export::extents(const MetaContext& context, uint64_t offset, uint32_t bytes, bool one,
                          std::vector<Extent>& result) const {
  result.clear();
  while (bytes != 0) {
    Extent extent = {};
    if (context.kind == MetaContext::Kind::kDirtyBitmap) {
      const Client::Pass pass = co_await client_->pass();
      const int error = dirty_extent(context, offset, bytes, extent);
      if (error != 0) co_return error;
    } else {
      const bool depth = context.kind == MetaContext::Kind::kAllocationDepth;
      const StatusDetail detail = depth ? StatusDetail::kQuick : StatusDetail::kPrecise;
      ChainStatus status;
      const int error = co_await client_->status(offset, bytes, detail, status);
      if (error != 0) co_return error;
      if (status.bytes == 0) co_return -EIO;
      extent.bytes = static_cast<uint32_t>(std::min<uint64_t>(status.bytes, bytes));
      if (depth)
        extent.flags = status.allocated ? status.depth + 1 : 0;
      else
        extent.flags = (status.data ? 0 : kStateHole) | (status.zero ? kStateZero : 0);
    }
    offset += extent.bytes;
    bytes -= extent.bytes;
    if (!result.empty() && result.back().flags == extent.flags) {
      result.back().bytes += extent.bytes;
      continue;
    }
    // The one extent is as long as it can be: it ends where another begins.
    if (result.size() == (one ? 1 : kMostExtents)) break;
    result.push_back(extent);
  }
  co_return result.empty() ? -EIO : 0;
}

}  // namespace ostler::block::nbd
