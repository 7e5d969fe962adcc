// Dirty bitmaps of any disk: those that an image keeps itself (qcow2), and others in memory, which a filter
// over the disk records and which are gone with it.
#pragma once

#include "block/capabilities.h"
#include "block/jobs/job_manager.h"

namespace ostler::block {

struct BitmapOptions {
  NodePtr node;  // what users have
  std::string name;
  uint64_t granularity = 65536;  // bytes, a power of two
  bool persistent = false;       // kept in the image
  bool enabled = true;           // records
};

// "block-dirty-bitmap-add". On an I/O context, while the disk is used. Who keeps it: the image, or a filter,
// which may be new and lie above `node`.
Task<Result<NodePtr>> add_bitmap(JobManager& manager, BitmapOptions options);
// "block-dirty-bitmap-remove".
Task<Result<void>> remove_bitmap(JobManager& manager, NodePtr node, std::string name);

// Who has bitmap `name` of the disk `node`: it lives as long as the disk is not drained. kNotFound.
Result<Bitmaps*> find_bitmap(const NodePtr& node, const std::string& name);
// Of the disk, in memory and in the image.
std::vector<BitmapInfo> list_bitmaps(const NodePtr& node);

}  // namespace ostler::block
