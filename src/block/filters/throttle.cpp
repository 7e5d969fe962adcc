#include "block/filters/throttle.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/suggest.h"
#include "block/driver.h"
#include "block/io_context.h"

namespace ostler::block {
namespace {

constexpr uint64_t kLook = 100'000'000;  // nanoseconds between looks at cancellation

std::mutex groups_mutex;
std::map<std::string, std::weak_ptr<ThrottleGroup>> groups;

}  // namespace

Result<ThrottleLimits> throttle_limits(nlohmann::json options, const std::string& where) {
  static constexpr const char* kKinds[] = {"total", "read", "write"};
  OptionReader reader(std::move(options), where);
  ThrottleLimits limits;
  for (size_t kind = 0; kind < 3; ++kind)
    for (const bool is_bytes : {false, true}) {
      const std::string key = std::string(is_bytes ? "bps-" : "iops-") + kKinds[kind];
      BucketLimits& bucket = is_bytes ? limits.bytes[kind] : limits.operations[kind];
      TRY_ASSIGN(const auto rate, reader.number(key));
      TRY_ASSIGN(const auto most, reader.number(key + "-max"));
      TRY_ASSIGN(const auto length, reader.number(key + "-max-length", 1u << 20));
      bucket.rate = static_cast<double>(rate.value_or(0));
      bucket.burst_rate = static_cast<double>(most.value_or(0));
      bucket.burst_seconds = static_cast<double>(length.value_or(1));
      if (most && !bucket.enabled()) return reader.error(key + "-max", "needs " + key);
      if (most && *most != 0 && bucket.burst_rate < bucket.rate)
        return reader.error(key + "-max", "is below " + key);
    }
  for (auto* buckets : {&limits.operations, &limits.bytes})
    if ((*buckets)[0].enabled() && ((*buckets)[1].enabled() || (*buckets)[2].enabled()))
      return Error(ErrorKind::kInvalidArgument,
                   where + ": a limit of the total excludes limits of reads and of writes");
  TRY_ASSIGN(const auto size, reader.number("iops-size"));
  limits.operation_bytes = size.value_or(0);
  TRY(reader.finish());
  return limits;
}

std::shared_ptr<ThrottleGroup> ThrottleGroup::get(const std::string& name) {
  const std::lock_guard lock(groups_mutex);
  std::erase_if(groups, [](const auto& each) { return each.second.expired(); });
  std::weak_ptr<ThrottleGroup>& place = groups[name];
  auto group = place.lock();
  if (!group) {
    group = std::make_shared<ThrottleGroup>();
    place = group;
  }
  return group;
}

Result<std::shared_ptr<ThrottleGroup>> ThrottleGroup::find(const std::string& name, std::string_view option,
                                                           std::string_view cure) {
  const std::lock_guard lock(groups_mutex);
  std::vector<std::string_view> known;
  for (const auto& [other, place] : groups) {
    auto group = place.lock();
    if (group && other == name) return group;
    if (group) known.push_back(other);
  }
  return Error(ErrorKind::kNotFound, fmt::format("{}: there is no throttle group '{}'{}; {}", option, name,
                                                 suggestion(name, known), cure));
}

void ThrottleGroup::set_limits(const ThrottleLimits& limits) {
  const std::lock_guard lock(mutex_);
  for (size_t kind = 0; kind < 3; ++kind) {
    operations_[kind].set_limits(limits.operations[kind]);
    bytes_[kind].set_limits(limits.bytes[kind]);
  }
  operation_bytes_ = limits.operation_bytes;
}

uint64_t ThrottleGroup::book(bool is_write, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  // Those before it wait still: it begins no earlier than they, in the buckets' time.
  const uint64_t now = std::max(IoContext::now(), last_start_[is_write]);
  uint64_t wait = 0;
  const size_t kinds[] = {0, is_write ? size_t{2} : size_t{1}};
  for (const size_t kind : kinds)
    wait = std::max({wait, operations_[kind].wait(now), bytes_[kind].wait(now)});
  const double operations =
      operation_bytes_ == 0
          ? 1
          : std::max(1.0, static_cast<double>(bytes) / static_cast<double>(operation_bytes_));
  for (const size_t kind : kinds) {
    operations_[kind].add(operations);
    bytes_[kind].add(static_cast<double>(bytes));
  }
  last_start_[is_write] = now + wait;
  return now + wait;
}

Task<int> ThrottleNode::pass(bool is_write, uint64_t bytes) {
  const uint64_t start = group_->book(is_write, bytes);
  const unsigned cancels = cancels_;
  IoContext& context = *IoContext::current();
  for (;;) {
    const uint64_t now = IoContext::now();
    if (now >= start) co_return 0;
    co_await context.sleep_until(std::min(start, now + kLook));
    if (cancels_ != cancels) co_return -ECANCELED;
  }
}

void ThrottleNode::cancel() {
  ++cancels_;
  FilterNode::cancel();
}

Task<int> ThrottleNode::read(uint64_t offset, Buffers to) {
  const int error = co_await pass(false, total_bytes(to));
  if (error != 0) co_return error;
  co_return co_await child_->read(offset, to);
}

Task<int> ThrottleNode::write(uint64_t offset, Buffers from) {
  const int error = co_await pass(true, total_bytes(from));
  if (error != 0) co_return error;
  co_return co_await child_->write(offset, from);
}

Task<int> ThrottleNode::write_compressed(uint64_t offset, Buffers from) {
  const int error = co_await pass(true, total_bytes(from));
  if (error != 0) co_return error;
  co_return co_await child_->write_compressed(offset, from);
}

Task<int> ThrottleNode::write_zeroes(uint64_t offset, uint64_t bytes, ZeroFlags flags) {
  const int error = co_await pass(true, bytes);
  if (error != 0) co_return error;
  co_return co_await child_->write_zeroes(offset, bytes, flags);
}

Task<int> ThrottleNode::discard(uint64_t offset, uint64_t bytes) {
  const int error = co_await pass(true, bytes);
  if (error != 0) co_return error;
  co_return co_await child_->discard(offset, bytes);
}

namespace {

Task<Result<NodePtr>> open_throttle(OpenRequest request) {
  CO_TRY_ASSIGN(const auto name, request.options.string("throttle-group"));
  if (!name) co_return request.options.error("throttle-group", "is missing");
  std::shared_ptr<ThrottleGroup> group;
  if (auto limits = request.options.take("limits")) {
    CO_TRY_ASSIGN(const ThrottleLimits parsed, throttle_limits(*limits, "throttle-group " + *name));
    group = ThrottleGroup::get(*name);
    group->set_limits(parsed);
  } else {
    CO_TRY_ASSIGN(group, ThrottleGroup::find(*name, request.options.where() + ": throttle-group",
                                             "limits.iops-total=N beside it makes one"));
  }
  auto child = co_await request.open_child("file");
  if (!child) co_return std::move(child).error();
  CO_TRY(request.options.finish());
  auto node = std::make_shared<ThrottleNode>(std::move(group));
  CO_TRY(node->connect(*std::move(child), pass_through_permissions(request.flags.writable)));
  co_return NodePtr(std::move(node));
}

}  // namespace

extern const Driver kThrottleDriver;
const Driver kThrottleDriver = {.name = "throttle", .kind = DriverKind::kFilter, .open = open_throttle};

}  // namespace ostler::block
