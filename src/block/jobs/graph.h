// Changes to the graph that jobs and snapshots make, while users go on using it. Callers hold
// JobManager::change_graph() and no request of their own.
#pragma once

#include <string>
#include <vector>

#include "block/filters/filter.h"

namespace ostler::block {

// Puts `filter` between `below` and its users, except those in `stay`. Permissions: what the filter takes.
Task<Result<void>> insert_filter(std::shared_ptr<FilterNode> filter, NodePtr below, Permissions permissions,
                                 std::vector<const Parent*> stay = {});
// The opposite; the filter's users use what it filtered.
Task<void> remove_filter(std::shared_ptr<FilterNode> filter);

// Whether images that lie on `node` let others write it: what is written there, they hide from their users.
Result<void> share_writes(const NodePtr& node, bool on);

// Closes `node` and what lies below it if nobody uses it any more and the caller's is the last reference.
Task<void> release_chain(NodePtr node);

// All nodes of the backing chain from `top` to before `base` (null: to its end), filters included.
std::vector<NodePtr> nodes_of_chain(const NodePtr& top, const NodePtr& base);
// The images of the chain from `top` on whose backing image, filters skipped, is `image`; null: none.
NodePtr overlay_of(const NodePtr& top, const NodePtr& image);
bool in_chain(const NodePtr& top, const NodePtr& image);

// How an image names `node` as its backing file: an absolute path, or "json:{…}".
std::string backing_name(const NodePtr& node);
// Makes `next` the backing node of `image`, in the graph and by `name` in the image itself (null `next`:
// none). The image is drained and flushed; as it was after an error.
Task<Result<void>> change_backing(NodePtr image, NodePtr next, std::string name);

}  // namespace ostler::block
