#include "config/key_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/suggest.h"
#include "config/property.h"

namespace ostler::config {
namespace {

using Json = nlohmann::json;

constexpr int kDeepestJson = 16;

bool flatten(const Json& value, const std::string& key, Properties& out, int depth) {
  if (depth > kDeepestJson) return false;
  if (value.is_object()) {
    for (const auto& [name, member] : value.items())
      if (!flatten(member, key.empty() ? name : key + "." + name, out, depth + 1)) return false;
    return true;
  }
  if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i)
      if (!flatten(value[i], fmt::format("{}.{}", key, i), out, depth + 1)) return false;
    return true;
  }
  if (value.is_boolean())
    out.push_back({key, value.get<bool>() ? "on" : "off"});
  else if (value.is_string())
    out.push_back({key, value.get<std::string>()});
  else
    out.push_back({key, value.dump()});
  return true;
}

}  // namespace

Result<KeyValues> KeyValues::parse(std::string option, std::string_view text, std::string_view implied) {
  KeyValues out;
  out.origin_ = fmt::format("{} {}", option, text);
  out.pairs_ = split_options(text, implied);
  for (const KeyValue& pair : out.pairs_)
    if (pair.key.empty())
      return Error(
          ErrorKind::kInvalidArgument,
          fmt::format("{}: a setting without a name; a comma in a value is written ',,'", out.origin_));
  return out;
}

Result<KeyValues> KeyValues::parse_json(std::string option, std::string_view text) {
  KeyValues out;
  out.origin_ = fmt::format("{} {}", option, text);
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !flatten(json, "", out.pairs_, 0))
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: not a JSON object of settings", out.origin_));
  return out;
}

Result<KeyValues> KeyValues::parse_either(std::string option, std::string_view text,
                                          std::string_view implied) {
  if (text.starts_with('{')) return parse_json(std::move(option), text);
  return parse(std::move(option), text, implied);
}

KeyValues KeyValues::from(std::string origin, Properties pairs) {
  KeyValues out;
  out.origin_ = std::move(origin);
  out.pairs_ = std::move(pairs);
  return out;
}

Error KeyValues::error(std::string_view key, std::string_view text) const {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}: {}", origin_, key, text));
}

std::optional<std::string> KeyValues::take(std::string_view key) {
  asked_.emplace_back(key);
  std::optional<std::string> found;
  std::erase_if(pairs_, [&](auto& pair) {
    if (pair.key != key) return false;
    found = std::move(pair.value);
    return true;
  });
  return found;
}

std::vector<std::string> KeyValues::take_all(std::string_view key) {
  asked_.emplace_back(key);
  std::vector<std::string> found;
  std::erase_if(pairs_, [&](auto& pair) {
    const std::string_view name = pair.key;
    const bool member = name.starts_with(key) && name.substr(key.size()).starts_with('.') &&
                        name.find_first_not_of("0123456789", key.size() + 1) == std::string_view::npos;
    if (name != key && !member) return false;
    found.push_back(std::move(pair.value));
    return true;
  });
  return found;
}

Result<std::optional<bool>> KeyValues::take_bool(std::string_view key) {
  for (KeyValue& pair : pairs_)
    if (pair.value == "on" && pair.key.starts_with("no") && std::string_view(pair.key).substr(2) == key)
      pair = {std::string(key), "off"};
  const auto text = take(key);
  if (!text) return std::optional<bool>();
  const auto value = parse_bool(*text);
  if (!value) return error(key, value.error().message());
  return std::optional<bool>(*value);
}

Result<std::optional<uint64_t>> KeyValues::take_number(std::string_view key) {
  const auto text = take(key);
  if (!text) return std::optional<uint64_t>();
  const auto value = parse_number(*text);
  if (!value) return error(key, value.error().message());
  return std::optional<uint64_t>(*value);
}

Result<std::optional<uint64_t>> KeyValues::take_size(std::string_view key, uint64_t unit) {
  const auto text = take(key);
  if (!text) return std::optional<uint64_t>();
  const auto value = parse_size(*text, unit);
  if (!value) return error(key, value.error().message());
  return std::optional<uint64_t>(*value);
}

Result<std::string> KeyValues::take_choice(std::string_view key, std::vector<std::string_view> choices) {
  const auto text = take(key);
  if (!text) return std::string(choices.front());
  if (std::find(choices.begin(), choices.end(), *text) != choices.end()) return *text;
  return error(key, fmt::format("'{}' is not one of {}{}", *text, fmt::join(choices, ", "),
                                suggestion(*text, choices)));
}

Result<void> KeyValues::finish() const {
  if (pairs_.empty()) return {};
  const std::string& key = pairs_.front().key;
  const std::vector<std::string_view> known(asked_.begin(), asked_.end());
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{}: it has no setting '{}'{}", origin_, key, suggestion(key, known)));
}

}  // namespace ostler::config
