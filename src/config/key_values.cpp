#include "config/key_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/suggest.h"

namespace ostler::config {
namespace {

using Json = nlohmann::json;

constexpr int kDeepestJson = 16;

// The text up to the next single comma, with ",," read as ','; `text` is moved past it.
std::string next_item(std::string_view& text) {
  std::string item;
  size_t i = 0;
  while (i < text.size()) {
    if (text[i] == ',') {
      if (i + 1 >= text.size() || text[i + 1] != ',') break;
      ++i;
    }
    item += text[i++];
  }
  text = i < text.size() ? text.substr(i + 1) : std::string_view{};
  return item;
}

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
    out.emplace_back(key, value.get<bool>() ? "on" : "off");
  else if (value.is_string())
    out.emplace_back(key, value.get<std::string>());
  else
    out.emplace_back(key, value.dump());
  return true;
}

}  // namespace

Result<uint64_t> parse_number(std::string_view text) {
  uint64_t value = 0;
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  const std::string_view digits = hex ? text.substr(2) : text;
  const auto [end, status] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
  if (status != std::errc{} || end != digits.data() + digits.size() || digits.empty())
    return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a number", text));
  return value;
}

Result<uint64_t> parse_size(std::string_view text, uint64_t unit) {
  constexpr std::string_view kSuffixes = "BKMGTPE";
  const std::string_view whole = text;
  uint64_t scale = unit;
  if (text.size() > 2 && (text.ends_with("iB") || text.ends_with("ib"))) text.remove_suffix(2);
  if (!text.empty() && !text.starts_with("0x")) {
    const size_t suffix =
        kSuffixes.find(static_cast<char>(std::toupper(static_cast<unsigned char>(text.back()))));
    if (suffix != std::string_view::npos) {
      scale = uint64_t{1} << (10 * suffix);
      text.remove_suffix(1);
    }
  }
  // "1.5G" is common; fractions are exact enough in double.
  if (const size_t dot = text.find('.'); dot != std::string_view::npos) {
    double value = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status == std::errc{} && end == text.data() + text.size() && value >= 0 &&
        value * static_cast<double>(scale) < 0x1p63)
      return static_cast<uint64_t>(value * static_cast<double>(scale));
  } else if (const auto value = parse_number(text); value && *value <= UINT64_MAX / scale) {
    return *value * scale;
  }
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("'{}' is not a size; write it like 512M or 4G", whole));
}

Result<bool> parse_bool(std::string_view text) {
  if (text == "on" || text == "yes" || text == "true" || text == "y") return true;
  if (text == "off" || text == "no" || text == "false" || text == "n") return false;
  return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is neither 'on' nor 'off'", text));
}

Result<KeyValues> KeyValues::parse(std::string option, std::string_view text, std::string_view implied) {
  KeyValues out;
  out.origin_ = fmt::format("{} {}", option, text);
  out.option_ = std::move(option);
  bool first = true;
  while (!text.empty()) {
    const std::string item = next_item(text);
    const size_t equals = item.find('=');
    if (equals != std::string::npos) {
      if (equals == 0)
        return Error(ErrorKind::kInvalidArgument,
                     fmt::format("{}: '{}' has no name before '='", out.origin_, item));
      out.pairs_.emplace_back(item.substr(0, equals), item.substr(equals + 1));
    } else if (first && !implied.empty()) {
      out.pairs_.emplace_back(std::string(implied), item);
    } else if (!item.empty()) {
      out.pairs_.emplace_back(item, "on");
    } else {
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: an empty setting; a comma in a value is written ',,'", out.origin_));
    }
    first = false;
  }
  return out;
}

Result<KeyValues> KeyValues::parse_json(std::string option, std::string_view text) {
  KeyValues out;
  out.origin_ = fmt::format("{} {}", option, text);
  out.option_ = std::move(option);
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

Error KeyValues::error(std::string_view key, std::string_view text) const {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}: {}", origin_, key, text));
}

std::optional<std::string> KeyValues::take(std::string_view key) {
  asked_.emplace_back(key);
  std::optional<std::string> found;
  std::erase_if(pairs_, [&](auto& pair) {
    if (pair.first != key) return false;
    found = std::move(pair.second);
    return true;
  });
  return found;
}

Result<std::optional<bool>> KeyValues::take_bool(std::string_view key) {
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
  const std::string& key = pairs_.front().first;
  const std::vector<std::string_view> known(asked_.begin(), asked_.end());
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{}: it has no setting '{}'{}", origin_, key, suggestion(key, known)));
}

}  // namespace ostler::config
