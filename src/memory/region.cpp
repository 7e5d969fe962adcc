#include "memory/region.h"

#include "base/assert.h"
#include "memory/address_space.h"

namespace ostler::memory {

Region::~Region() {
  ASSERT(aliases_ == 0, "aliases are destroyed before what they show");
  if (parent_ != nullptr) {
    Transaction change(*space_);
    change.remove(*this);
  }
  for (Region* child : children_) child->parent_ = nullptr;
}

AliasRegion::AliasRegion(std::string name, Region& target, uint64_t target_offset, uint64_t size)
    : Region(std::move(name), size), target_(target), target_offset_(target_offset) {
  ++target_.aliases_;
}

AliasRegion::~AliasRegion() {
  if (parent_ != nullptr) {
    Transaction change(*space_);
    change.remove(*this);
  }
  --target_.aliases_;
}

}  // namespace ostler::memory
