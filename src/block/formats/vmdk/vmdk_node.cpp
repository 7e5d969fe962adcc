#include "block/formats/vmdk/vmdk_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

namespace ostler::block {
namespace {

enum : int { kRead, kWrite, kWritePacked };

}  // namespace

const VmdkNode::Extent& VmdkNode::extent_at(uint64_t offset) const {
  return *std::ranges::upper_bound(extents_, offset, {}, &Extent::end);
}

Task<int> VmdkNode::for_extents(uint64_t offset, Buffers buffers, int kind) {
  const uint64_t bytes = total_bytes(buffers);
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t at = offset + done;
    const Extent& extent = extent_at(at);
    const uint64_t run = std::min(bytes - done, extent.end - at);
    const uint64_t inside = extent.file_offset + (at - extent.begin);
    const Slice part(buffers, done, run);
    int error = 0;
    if (kind == kRead)
      error = co_await extent.node->read(inside, part);
    else if (kind == kWrite)
      error = co_await extent.node->write(inside, part);
    else
      error = co_await extent.node->write_compressed(inside, part);
    if (error != 0) co_return error;
    done += run;
  }
  co_return 0;
}

Task<int> VmdkNode::read(uint64_t offset, Buffers to) {
  const uint64_t bytes = total_bytes(to), end = size();
  if (offset <= end && bytes <= end - offset) co_return co_await for_extents(offset, to, kRead);
  const uint64_t inside = end - std::min(end, offset);
  fill_zeroes(to, inside);
  const Slice part(to, 0, inside);
  co_return co_await for_extents(offset, part, kRead);
}

Task<int> VmdkNode::write(uint64_t offset, Buffers from) {
  if (read_only_) co_return -EROFS;
  const uint64_t bytes = total_bytes(from), end = size();
  if (offset > end || bytes > end - offset) co_return -EINVAL;
  const int error = co_await change_cid();
  if (error != 0) co_return error;
  co_return co_await for_extents(offset, from, kWrite);
}

Task<int> VmdkNode::write_compressed(uint64_t offset, Buffers from) {
  if (read_only_) co_return -EROFS;
  const uint64_t bytes = total_bytes(from), end = size();
  if (offset > end || bytes > end - offset) co_return -EINVAL;
  const int error = co_await change_cid();
  if (error != 0) co_return error;
  co_return co_await for_extents(offset, from, kWritePacked);
}

Task<int> VmdkNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  if (read_only_) co_return -EROFS;
  if (offset > size() || bytes > size() - offset) co_return -EINVAL;
  int error = co_await change_cid();
  if (error != 0) co_return error;
  while (bytes != 0) {
    const Extent& extent = extent_at(offset);
    const uint64_t run = std::min(bytes, extent.end - offset);
    error = co_await extent.node->write_zeroes(extent.file_offset + (offset - extent.begin), run, flags);
    if (error != 0) co_return error;
    offset += run;
    bytes -= run;
  }
  co_return 0;
}

Task<int> VmdkNode::discard(uint64_t offset, uint64_t bytes) {
  if (read_only_) co_return -EROFS;
  if (offset > size() || bytes > size() - offset) co_return -EINVAL;
  int error = co_await change_cid();
  if (error != 0) co_return error;
  while (bytes != 0) {
    const Extent& extent = extent_at(offset);
    const uint64_t run = std::min(bytes, extent.end - offset);
    error = co_await extent.node->discard(extent.file_offset + (offset - extent.begin), run);
    if (error != 0) co_return error;
    offset += run;
    bytes -= run;
  }
  co_return 0;
}

NodePtr VmdkNode::file_of(const Extent& extent) {
  return extent.sparse != nullptr ? extent.sparse->file() : extent.node.node();
}

Task<int> VmdkNode::flush() {
  bool has_descriptor = false;  // in the file of an extent
  for (const Extent& extent : extents_) {
    const int error = co_await extent.node->flush();
    if (error != 0) co_return error;
    has_descriptor |= file_of(extent) == file_.node();
  }
  if (has_descriptor) co_return 0;
  co_return co_await file_->flush();
}

Task<int> VmdkNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail, BlockStatus& status) {
  status = {};
  if (offset >= size() || bytes == 0) co_return 0;
  const Extent& extent = extent_at(offset);
  const uint64_t run = std::min(bytes, extent.end - offset);
  const int error =
      co_await extent.node->block_status(extent.file_offset + (offset - extent.begin), run, detail, status);
  if (extent.sparse == nullptr) status.allocated = status.data = true;
  co_return error;
}

Task<int> VmdkNode::change_cid() {
  if (changed_) co_return 0;
  const auto turn = co_await changing_.lock();
  if (changed_) co_return 0;
  std::random_device source;
  descriptor_.cid = source() & 0xfffffffe;  // never kNoParent
  const std::string text = VmdkDescriptor::with_cid(text_, descriptor_.cid);
  // The same length unless the old number was written shorter; an embedded one has its place to keep.
  if (text.size() == text_.size() || text_offset_ == 0) {
    const int error = co_await write_bytes(*file_, text_offset_, text.data(), text.size());
    if (error != 0) co_return error;
    text_ = text;
  }
  changed_ = true;
  co_return 0;
}

Task<Result<void>> VmdkNode::reopen(bool writable) {
  if (writable == !read_only_) co_return Result<void>();
  const PermissionMask used = writable ? kPermissionRead | kPermissionWrite : kPermissionRead;
  // Extents write what they keep before the file below can be written no more.
  std::vector<Edge*> edges;
  for (Extent& extent : extents_) edges.push_back(&extent.node);
  edges.insert(writable ? edges.begin() : edges.end(), &file_);
  for (Edge* edge : edges) {
    if (writable) CO_TRY(edge->set_permissions({used, kPermissionsAll}));
    auto reopened = co_await (*edge)->reopen(writable);
    if (!reopened) co_return reopened;
    if (!writable) CO_TRY(edge->set_permissions({used, kPermissionsAll}));
  }
  read_only_ = !writable;
  changed_ = false;
  co_return Result<void>();
}

Limits VmdkNode::limits() const {
  for (const Extent& extent : extents_)
    if (extent.sparse != nullptr) return extent.sparse->limits();
  return {};
}

bool VmdkNode::compresses() const {
  return std::ranges::all_of(extents_, [](const Extent& extent) {
    return extent.sparse != nullptr && extent.sparse->header().compressed();
  });
}

int64_t VmdkNode::allocated_bytes() const {
  int64_t sum = file_->allocated_bytes();
  for (const Extent& extent : extents_) {
    const NodePtr file = file_of(extent);
    if (file == file_.node()) continue;
    const int64_t bytes = file->allocated_bytes();
    if (bytes > 0 && sum >= 0) sum += bytes;
  }
  return sum;
}

nlohmann::json VmdkNode::format_specific_info() const {
  nlohmann::json extents = nlohmann::json::array();
  for (const Extent& extent : extents_) {
    nlohmann::json one = {{"filename", extent.node->filename()},
                          {"format", extent.type},
                          {"virtual-size", extent.end - extent.begin}};
    if (extent.sparse != nullptr) {
      one["cluster-size"] = extent.sparse->limits().cluster_bytes;
      if (extent.sparse->header().compressed()) one["compressed"] = true;
    }
    extents.push_back(std::move(one));
  }
  return {{"type", "vmdk"},
          {"data",
           {{"create-type", descriptor_.create_type},
            {"cid", descriptor_.cid},
            {"parent-cid", descriptor_.parent_cid},
            {"extents", std::move(extents)}}}};
}

nlohmann::json VmdkNode::options() const {
  nlohmann::json result = {{"driver", driver()}, {"file", file_->options()}};
  if (backing_) result["backing"] = backing_->options();
  return result;
}

std::vector<const Edge*> VmdkNode::children() const {
  std::vector<const Edge*> result = {&file_};
  if (backing_) result.push_back(&backing_);
  for (const Extent& extent : extents_) result.push_back(&extent.node);
  return result;
}

void VmdkNode::connect_below() {
  Node* const node = backing_ ? backing_.node().get() : nullptr;
  for (const Extent& extent : extents_)
    if (extent.sparse != nullptr) extent.sparse->set_below(node, extent.begin);
}

Result<void> VmdkNode::set_backing(NodePtr node) {
  if (!node) {
    backing_.detach();
  } else if (backing_) {
    TRY(backing_.replace(std::move(node)));
  } else {
    TRY_ASSIGN(backing_, Edge::attach(*this, std::move(node), "backing", Role::kBacking,
                                      {.used = kPermissionRead, .shared = kPermissionsAll}));
  }
  connect_below();
  return {};
}

// Checks every sparse extent and adds up what they say.
class VmdkNode::ExtentsChecker final : public Checker {
 public:
  explicit ExtentsChecker(VmdkNode& node) : node_(node) {}
  Task<Result<CheckReport>> check(CheckOptions options) override {
    CheckReport sum;
    for (const Extent& extent : node_.extents_) {
      if (extent.sparse == nullptr) continue;
      auto one = co_await extent.sparse->checker()->check(options);
      if (!one) co_return one;
      sum.corruptions += one->corruptions;
      sum.errors += one->errors;
      sum.image_end_offset = std::max(sum.image_end_offset, one->image_end_offset);
      sum.total_clusters += one->total_clusters;
      sum.allocated_clusters += one->allocated_clusters;
      sum.fragmented_clusters += one->fragmented_clusters;
      sum.compressed_clusters += one->compressed_clusters;
      sum.messages_left_out += one->messages_left_out;
      for (std::string& message : one->messages) {
        if (sum.messages.size() < 100)
          sum.messages.push_back(std::move(message));
        else
          ++sum.messages_left_out;
      }
    }
    co_return sum;
  }

 private:
  VmdkNode& node_;
};

Checker* VmdkNode::checker() {
  if (!checker_) checker_ = std::make_shared<ExtentsChecker>(*this);
  return checker_.get();
}

}  // namespace ostler::block
