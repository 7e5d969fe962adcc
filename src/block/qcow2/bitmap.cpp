#include <nlohmann/json.hpp>

#include "block/qcow2/bitmap_store.h"
#include "block/qcow2/checker.h"
#include "block/qcow2/node.h"

namespace ostler::block::qcow2 {

Bitmaps* Qcow2Node::bitmaps() {
  return nullptr;
}

Task<Result<void>> Qcow2Node::store_bitmaps() {
  co_return Result<void>();
}

void Qcow2Node::add_bitmap_info(nlohmann::json&) const {}

Task<Result<void>> RefcountCheck::walk_bitmaps() {
  co_return Result<void>();
}

}  // namespace ostler::block::qcow2
