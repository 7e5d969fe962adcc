#include "machine/disk_objects.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "base/suggest.h"
#include "block/nbd/tls_objects.h"
#include "block/secret.h"
#include "config/object_types.h"

namespace ostler::machine {
namespace {

constexpr uint64_t kMostPoll = 1'000'000'000;  // nanoseconds

using nlohmann::json;

// Limits are properties of their own ("x-iops-total") or in a group ("limits.iops-total").
json limits_of(const json& options) {
  json limits = json::object();
  for (const auto& [key, value] : options.items()) {
    if (key == "limits" && value.is_object())
      limits.update(value);
    else
      limits[key.starts_with("x-") ? key.substr(2) : key] = value;
  }
  return limits;
}

}  // namespace

bool DiskObjects::has(std::string_view type) {
  const config::ObjectType* const known = config::find_object_type(type);
  return known != nullptr && known->use == config::ObjectUse::kDisks;
}

Result<void> DiskObjects::make(const config::Object& object, block::Opener& opener) {
  json options = json::object();
  for (const auto& [key, value] : object.properties) options[key] = value;
  TRY_ASSIGN(options, block::nest_options(options));
  const std::string where = fmt::format("{} '{}'", object.type, object.id);
  if (object.type == "secret")
    return block::add_secret(opener, object.id, block::OptionReader(std::move(options), where));
  if (object.type == block::nbd::kTlsCertificates || object.type == block::nbd::kTlsKeys)
    return block::nbd::add_tls_object(opener, object.type, object.id,
                                      block::OptionReader(std::move(options), where));
  if (object.type == "throttle-group") {
    auto group = block::ThrottleGroup::get(object.id);
    TRY_ASSIGN(const block::ThrottleLimits limits, block::throttle_limits(limits_of(options), where));
    group->set_limits(limits);
    throttle_groups_.emplace(object.id, std::move(group));
    return {};
  }
  block::OptionReader reader(std::move(options), where);
  TRY_ASSIGN(const auto poll, reader.number("poll-max-ns", kMostPoll));
  // Hints to a loop that is made otherwise.
  for (const char* hint : {"poll-grow", "poll-shrink", "aio-max-batch"}) {
    TRY_ASSIGN(const auto value, reader.number(hint));
    static_cast<void>(value);
  }
  TRY(reader.finish());
  iothreads_.emplace(object.id, std::make_unique<block::IoThread>(block::Aio::kIoUring,
                                                                  poll.value_or(block::IoThread::kPoll)));
  return {};
}

Result<void> DiskObjects::add(const config::Object& object, block::Opener& opener) {
  auto made = make(object, opener);
  if (!made) return std::move(made).error().with_context(object.origin);
  return {};
}

void DiskObjects::add_throttle_group(const std::string& id) {
  throttle_groups_.emplace(id, block::ThrottleGroup::get(id));
}

Result<block::IoContext*> DiskObjects::iothread(const std::string& id, const std::string& user) {
  const auto found = iothreads_.find(id);
  if (found != iothreads_.end()) return &found->second->context();
  std::vector<std::string_view> known;
  for (const auto& entry : iothreads_) known.push_back(entry.first);
  return Error(ErrorKind::kNotFound,
               fmt::format("{}: there is no iothread '{}'{}; -object iothread,id={} makes it", user, id,
                           suggestion(id, known), id));
}

void DiskObjects::settle() {
  for (auto& [id, thread] : iothreads_) thread->settle();
}

}  // namespace ostler::machine
