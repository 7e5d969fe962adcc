#include "block/jobs/bitmaps.h"

#include <fmt/format.h>

#include "block/jobs/graph.h"
#include "block/jobs/job_filter.h"
#include "block/qcow2/bitmap_store.h"

namespace ostler::block {
namespace {

// The bitmaps in memory, and what tells them of writes.
class BitmapFilter final : public JobFilter, private Bitmaps {
 public:
  explicit BitmapFilter(uint64_t disk_bytes) : JobFilter("dirty-bitmaps"), store_(disk_bytes) {}

  Task<int> write(uint64_t offset, Buffers from) override {
    store_.written(offset, total_bytes(from));
    return child_->write(offset, from);
  }
  int try_write(uint64_t offset, Buffers from) override {
    store_.written(offset, total_bytes(from));
    return child_->try_write(offset, from);
  }
  Task<int> write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) override {
    store_.written(offset, bytes);
    return child_->write_zeroes(offset, bytes, flags);
  }
  Task<int> discard(uint64_t offset, uint64_t bytes) override {
    store_.written(offset, bytes);
    return child_->discard(offset, bytes);
  }
  Task<int> write_compressed(uint64_t offset, Buffers from) override {
    store_.written(offset, total_bytes(from));
    return child_->write_compressed(offset, from);
  }
  Task<Result<void>> truncate(uint64_t size, Preallocation preallocation) override {
    CO_TRY(co_await child_->truncate(size, preallocation));
    store_.resize(size);
    co_return Result<void>();
  }
  nlohmann::json options() const override { return child_->options(); }
  Bitmaps* bitmaps() override { return this; }

 private:
  std::vector<BitmapInfo> list() const override {
    std::vector<BitmapInfo> infos = store_.list();
    for (BitmapInfo& each : infos) each.persistent = false;
    return infos;
  }
  Task<Result<void>> add(std::string name, uint64_t granularity, bool enabled) override {
    return store_.add(std::move(name), granularity, enabled);
  }
  Task<Result<void>> remove(std::string name) override { return store_.remove(std::move(name)); }
  Task<Result<void>> clear(std::string name) override { return store_.clear(std::move(name)); }
  Task<Result<void>> enable(std::string name, bool enabled) override {
    return store_.enable(std::move(name), enabled);
  }
  Result<bool> next_dirty(const std::string& name, uint64_t offset, uint64_t& begin,
                          uint64_t& end) const override {
    return store_.next_dirty(name, offset, begin, end);
  }
  Result<void> mark(const std::string& name, uint64_t offset, uint64_t bytes) override {
    return store_.mark(name, offset, bytes);
  }
  qcow2::BitmapStore store_;
};

// The filters over the image and the image itself.
std::vector<NodePtr> layers_of(const NodePtr& node) {
  std::vector<NodePtr> layers;
  for (NodePtr each = node; each; each = each->filtered()) layers.push_back(each);
  return layers;
}

bool has_bitmap(Bitmaps& bitmaps, const std::string& name) {
  for (const BitmapInfo& each : bitmaps.list())
    if (each.name == name) return true;
  return false;
}

std::shared_ptr<BitmapFilter> filter_over(const NodePtr& node) {
  for (const NodePtr& each : layers_of(node))
    if (auto filter = std::dynamic_pointer_cast<BitmapFilter>(each)) return filter;
  return nullptr;
}

}  // namespace

Result<Bitmaps*> find_bitmap(const NodePtr& node, const std::string& name) {
  const std::lock_guard lock(graph_mutex());
  for (const NodePtr& each : layers_of(node))
    if (Bitmaps* const bitmaps = each->bitmaps(); bitmaps != nullptr && has_bitmap(*bitmaps, name))
      return bitmaps;
  return Error(ErrorKind::kNotFound, fmt::format("{} has no bitmap '{}'", node->filename(), name), ENOENT);
}

std::vector<BitmapInfo> list_bitmaps(const NodePtr& node) {
  const std::lock_guard lock(graph_mutex());
  std::vector<BitmapInfo> infos;
  for (const NodePtr& each : layers_of(node))
    if (Bitmaps* const bitmaps = each->bitmaps())
      for (BitmapInfo& info : bitmaps->list()) infos.push_back(std::move(info));
  return infos;
}

Task<Result<NodePtr>> add_bitmap(JobManager& manager, BitmapOptions options) {
  const NodePtr image = skip_filters(options.node);
  if (find_bitmap(options.node, options.name))
    co_return Error(ErrorKind::kInvalidArgument,
                    fmt::format("{} has a bitmap '{}' already", image->filename(), options.name), EEXIST);
  CO_TRY_ASSIGN(const JobManager::Claim claim,
                manager.claim("a bitmap that is made", layers_of(options.node)));
  if (options.persistent) {
    Bitmaps* const bitmaps = image->bitmaps();
    if (bitmaps == nullptr)
      co_return Error(ErrorKind::kUnsupported,
                      fmt::format("{}: the format '{}' keeps no bitmaps", image->filename(), image->driver()),
                      ENOTSUP);
    const Drained drained = co_await Drained::begin(image);
    CO_TRY(co_await bitmaps->add(options.name, options.granularity, options.enabled));
    co_return image;
  }
  const Mutex::Guard alone = co_await manager.change_graph();
  std::shared_ptr<BitmapFilter> filter = filter_over(options.node);
  const bool is_new = !filter;
  if (is_new) {
    filter = std::make_shared<BitmapFilter>(options.node->size());
    CO_TRY(manager.opener().add(filter, ""));
  }
  CO_TRY(co_await filter->bitmaps()->add(options.name, options.granularity, options.enabled));
  if (!is_new) co_return NodePtr(filter);
  // Like the users above it: they are checked there.
  Permissions taken = {.used = kPermissionRead, .shared = kPermissionRead | kPermissionWriteUnchanged};
  if (!options.node->read_only()) taken.used |= kPermissionWrite;
  CO_TRY(co_await insert_filter(filter, options.node, taken));
  co_return NodePtr(filter);
}

Task<Result<void>> remove_bitmap(JobManager& manager, NodePtr node, std::string name) {
  CO_TRY_ASSIGN(Bitmaps* const bitmaps, find_bitmap(node, name));
  CO_TRY_ASSIGN(const JobManager::Claim claim, manager.claim("a bitmap that is removed", layers_of(node)));
  const Mutex::Guard alone = co_await manager.change_graph();
  const std::shared_ptr<BitmapFilter> filter = filter_over(node);
  {
    const Drained drained = co_await Drained::begin(node);
    CO_TRY(co_await bitmaps->remove(name));
  }
  if (filter && filter->bitmaps()->list().empty()) {
    node = nullptr;
    co_await remove_filter(filter);
  }
  co_return Result<void>();
}

}  // namespace ostler::block
