#include "block/filters/preallocate.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "block/driver.h"

namespace ostler::block {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kMostSize = uint64_t{1} << 50, kMostAlign = uint64_t{1} << 40;  // of the options
constexpr uint64_t kLongestFile = uint64_t{1} << 62;

}  // namespace

Permissions PreallocateNode::permissions(bool writable) {
  Permissions permissions = pass_through_permissions(writable);
  if (writable) {
    permissions.used |= kPermissionResize;
    permissions.shared &= ~(kPermissionWrite | kPermissionResize);
  }
  return permissions;
}

void PreallocateNode::start(bool writable) {
  data_end_ = child_->size();
  writable_ = writable;
}

void PreallocateNode::cancel() {
  ++cancels_;
  FilterNode::cancel();
}

int PreallocateNode::try_write(uint64_t offset, Buffers from) {
  if (offset + total_bytes(from) > data_end_) return -EAGAIN;
  return child_->try_write(offset, from);
}

// Zeros up to an aligned end well behind `end`. With length_ alone: no write lies where they go.
Task<int> PreallocateNode::reserve(uint64_t end) {
  const uint64_t from = child_->size();
  if (end > kLongestFile) co_return -EFBIG;
  const uint64_t until = (end + reserve_ + align_ - 1) / align_ * align_;
  const int error = co_await child_->write_zeroes(from, until - from, {.no_fallback = true});
  if (error == -ENOTSUP) cannot_ = true;
  co_return error;
}

// What a failed request has left in the file is not known: data, as far as the file goes.
void PreallocateNode::changed(uint64_t end, int error) {
  if (error == -ENOTSUP) return;
  if (error != 0) end = std::min(end, child_->size());
  uint64_t before = data_end_.load();
  while (before < end && !data_end_.compare_exchange_weak(before, end)) {
  }
}

template <class Request>
Task<int> PreallocateNode::change(uint64_t end, Request request) {
  SharedMutex::Shared beside_others;
  SharedMutex::Exclusive alone;
  const unsigned cancels = cancels_;
  if (end > child_->size() && !cannot_) {
    alone = co_await length_.lock();
    // Reserving is a favour. Without it the request makes the file longer itself, alone: a later reservation
    // must not lay its zeros over it.
    if (end > child_->size() && cancels_ == cancels) static_cast<void>(co_await reserve(end));
  } else {
    beside_others = co_await length_.lock_shared();
  }
  if (cancels_ != cancels) co_return -ECANCELED;
  const int error = co_await request();
  changed(end, error);
  co_return error;
}

Task<int> PreallocateNode::write(uint64_t offset, Buffers from) {
  return change(offset + total_bytes(from), [=, this] { return child_->write(offset, from); });
}

Task<int> PreallocateNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  return change(offset + bytes, [=, this] { return child_->write_zeroes(offset, bytes, flags); });
}

Task<int> PreallocateNode::block_status(uint64_t offset, uint64_t bytes, StatusDetail detail,
                                        BlockStatus& status) {
  const int error = co_await child_->block_status(offset, bytes, detail, status);
  if (offset >= size()) {
    status.data = false;
    status.zero = true;
  }
  co_return error;
}

Task<Result<void>> PreallocateNode::cut() {
  const uint64_t end = data_end_;
  if (!writable_ || child_->size() <= end) co_return Result<void>();
  auto result = co_await child_->truncate(end, Preallocation::kOff);
  co_return result;
}

Task<Result<void>> PreallocateNode::truncate(uint64_t size, Preallocation preallocation) {
  const SharedMutex::Exclusive alone = co_await length_.lock();
  CO_TRY(co_await cut());
  auto result = co_await child_->truncate(size, preallocation);
  if (result) data_end_ = size;
  co_return result;
}

Task<Result<void>> PreallocateNode::reopen(bool writable) {
  if (writable == writable_) co_return Result<void>();
  if (writable) {
    CO_TRY(child_.set_permissions(permissions(true)));
    auto result = co_await child_->reopen(true);
    if (!result) {
      static_cast<void>(child_.set_permissions(permissions(false)));
      co_return result;
    }
    start(true);
    co_return result;
  }
  CO_TRY(co_await cut());
  auto result = co_await child_->reopen(false);
  if (!result) co_return result;
  writable_ = false;
  co_return child_.set_permissions(permissions(false));
}

Task<Result<void>> PreallocateNode::close() {
  auto result = co_await cut();
  co_return result;
}

nlohmann::json PreallocateNode::options() const {
  nlohmann::json result = Node::options();
  result["prealloc-align"] = align_;
  result["prealloc-size"] = reserve_;
  return result;
}

namespace {

Task<Result<NodePtr>> open_preallocate(OpenRequest request) {
  OptionReader& options = request.options;
  CO_TRY_ASSIGN(const auto align, options.size("prealloc-align"));
  CO_TRY_ASSIGN(const auto size, options.size("prealloc-size"));
  const uint64_t unit = align.value_or(PreallocateNode::kDefaultAlign);
  if (unit == 0 || unit % kSector != 0 || unit > kMostAlign)
    co_return options.error("prealloc-align", "must be a multiple of 512 bytes, from 512 to 1T");
  const uint64_t reserved = size.value_or(PreallocateNode::kDefaultSize);
  if (reserved > kMostSize) co_return options.error("prealloc-size", "must be at most 1P");
  auto child = co_await request.open_child("file");
  if (!child) co_return std::move(child).error();
  CO_TRY(options.finish());
  const bool writable = request.flags.writable && !(*child)->read_only();
  auto node = std::make_shared<PreallocateNode>(unit, reserved);
  CO_TRY(node->connect(*std::move(child), PreallocateNode::permissions(writable)));
  node->start(writable);
  co_return NodePtr(std::move(node));
}

}  // namespace

extern const Driver kPreallocateDriver;
const Driver kPreallocateDriver = {
    .name = "preallocate", .kind = DriverKind::kFilter, .open = open_preallocate};

}  // namespace ostler::block
