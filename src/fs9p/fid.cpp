#include "fs9p/fid.h"

namespace ostler::fs9p {

std::unique_ptr<XattrValue> XattrValue::make(std::shared_ptr<Share> share, std::vector<std::byte> bytes) {
  if (!share->take_xattr_bytes(bytes.size())) return nullptr;
  return std::unique_ptr<XattrValue>(new XattrValue(std::move(share), std::move(bytes)));
}

FidPtr FidTable::find(uint32_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = fids_.find(number);
  return found == fids_.end() ? nullptr : found->second;
}

bool FidTable::add(uint32_t number, FidPtr fid) {
  const std::lock_guard lock(mutex_);
  return fids_.emplace(number, std::move(fid)).second;
}

void FidTable::replace(uint32_t number, FidPtr fid) {
  const std::lock_guard lock(mutex_);
  // The old one's descriptors are closed without the lock.
  fids_[number].swap(fid);
}

FidPtr FidTable::take(uint32_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = fids_.find(number);
  if (found == fids_.end()) return nullptr;
  FidPtr fid = std::move(found->second);
  fids_.erase(found);
  return fid;
}

bool FidTable::empty() {
  const std::lock_guard lock(mutex_);
  return fids_.empty();
}

}  // namespace ostler::fs9p
