#include "block/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/suggest.h"

namespace ostler::block {

using nlohmann::json;

Result<uint64_t> parse_size(std::string_view text) {
  const Error bad(
      ErrorKind::kInvalidArgument,
      fmt::format("'{}' is not a size; write a number, with k, M, G, T, P or E for powers of 1024", text));
  std::string_view digits = text;
  unsigned shift = 0;
  if (!text.empty()) {
    static constexpr std::string_view kSuffixes = "bkmgtpe";
    const size_t at = kSuffixes.find(static_cast<char>(text.back() | 0x20));
    if (at != std::string_view::npos && (text.back() < '0' || text.back() > '9')) {
      shift = 10 * static_cast<unsigned>(at);
      digits.remove_suffix(1);
    }
  }
  int base = 10;
  if (digits.starts_with("0x")) {
    digits.remove_prefix(2);
    base = 16;
  }
  uint64_t whole = 0;
  const auto [end, status] = std::from_chars(digits.begin(), digits.end(), whole, base);
  if (status != std::errc() || digits.empty()) return bad;
  double fraction = 0;
  if (end != digits.end()) {
    if (*end != '.' || base != 10 || shift == 0) return bad;
    double scale = 0.1;
    for (const char* c = end + 1; c != digits.end(); ++c, scale /= 10) {
      if (*c < '0' || *c > '9') return bad;
      fraction += (*c - '0') * scale;
    }
  }
  if (whole > (~uint64_t{0} >> shift) >> 1)
    return Error(ErrorKind::kInvalidArgument, fmt::format("the size '{}' is above 8 EiB", text));
  return (whole << shift) +
         static_cast<uint64_t>(std::llround(fraction * static_cast<double>(uint64_t{1} << shift)));
}

std::string string_at(const json& object, const char* key, std::string otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

OptionReader::OptionReader(json object, std::string where)
    : object_(std::move(object)), where_(std::move(where)) {
  if (!object_.is_object()) object_ = json::object();
}

std::optional<json> OptionReader::take(std::string_view name) {
  known_.emplace_back(name);
  const auto found = object_.find(name);
  if (found == object_.end()) return std::nullopt;
  json value = std::move(*found);
  object_.erase(found);
  if (value.is_null()) return std::nullopt;
  return value;
}

Error OptionReader::error(std::string_view name, std::string_view problem) const {
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: option '{}' {}", where_, name, problem));
}

Result<std::optional<std::string>> OptionReader::string(std::string_view name) {
  const auto value = take(name);
  if (!value) return std::optional<std::string>();
  if (!value->is_string()) return error(name, "must be a string");
  return std::optional(value->get<std::string>());
}

Result<std::optional<bool>> OptionReader::boolean(std::string_view name) {
  const auto value = take(name);
  if (!value) return std::optional<bool>();
  if (value->is_boolean()) return std::optional(value->get<bool>());
  if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    if (text == "on" || text == "yes" || text == "true" || text == "y") return std::optional(true);
    if (text == "off" || text == "no" || text == "false" || text == "n") return std::optional(false);
  }
  return error(name, "must be on or off");
}

Result<std::optional<uint64_t>> OptionReader::size(std::string_view name) {
  const auto value = take(name);
  if (!value) return std::optional<uint64_t>();
  if (value->is_number_integer() && (value->is_number_unsigned() || value->get<int64_t>() >= 0))
    return std::optional(value->get<uint64_t>());
  if (!value->is_string()) return error(name, "must be a size in bytes");
  auto parsed = parse_size(value->get_ref<const std::string&>());
  if (!parsed) return error(name, parsed.error().message());
  return std::optional(*parsed);
}

Result<std::optional<uint64_t>> OptionReader::number(std::string_view name, uint64_t most) {
  TRY_ASSIGN(const auto value, size(name));
  if (value && *value > most) return error(name, fmt::format("is {}, above {}", *value, most));
  return value;
}

Result<std::optional<std::string>> OptionReader::choice(std::string_view name,
                                                        std::span<const std::string_view> choices) {
  TRY_ASSIGN(auto value, string(name));
  if (!value) return value;
  std::string list;
  for (const std::string_view each : choices) {
    if (*value == each) return value;
    list += (list.empty() ? "" : ", ") + std::string(each);
  }
  return error(name, fmt::format("is '{}'; there are {}", *value, list));
}

Result<void> OptionReader::finish() const {
  if (object_.empty()) return {};
  const std::string& name = object_.begin().key();
  const std::vector<std::string_view> known(known_.begin(), known_.end());
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("{}: there is no option '{}'{}", where_, name, suggestion(name, known)));
}

namespace {

// {"0": a, "1": b} as [a, b].
void make_list(json& object) {
  size_t count = 0;
  while (object.contains(std::to_string(count))) ++count;
  if (count == 0 || count != object.size()) return;
  json list = json::array();
  for (size_t i = 0; i < count; ++i) list.push_back(std::move(object[std::to_string(i)]));
  object = std::move(list);
}

Result<json> nest(const json& flat) {
  if (!flat.is_object()) return flat;
  json nested = json::object();
  for (const auto& [key, value] : flat.items()) {
    json* at = &nested;
    std::string_view rest = key;
    for (size_t dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
      json& next = (*at)[std::string(rest.substr(0, dot))];
      if (next.is_null()) next = json::object();
      if (!next.is_object())
        return Error(
            ErrorKind::kInvalidArgument,
            fmt::format("option '{}' contradicts '{}', which is not a group", key, rest.substr(0, dot)));
      at = &next;
      rest.remove_prefix(dot + 1);
    }
    json& place = (*at)[std::string(rest)];
    if (!place.is_null() && !(place.is_object() && value.is_object()))
      return Error(ErrorKind::kInvalidArgument, fmt::format("option '{}' is given twice", key));
    if (value.is_object()) {
      TRY_ASSIGN(const json inner, nest(value));
      if (place.is_null())
        place = inner;
      else
        place.update(inner);
    } else {
      place = value;
    }
  }
  return nested;
}

// Objects within, not the outermost one.
void make_lists(json& options) {
  for (auto& [key, value] : options.items()) {
    if (!value.is_object() && !value.is_array()) continue;
    make_lists(value);
    if (value.is_object()) make_list(value);
  }
}

}  // namespace

Result<json> nest_options(const json& flat) {
  TRY_ASSIGN(json nested, nest(flat));
  if (nested.is_object()) make_lists(nested);
  return nested;
}

Result<json> parse_option_list(std::string_view text, std::string_view implied) {
  json flat = json::object();
  size_t at = 0;
  bool first = true;
  while (at < text.size()) {
    std::string part;
    for (; at < text.size(); ++at) {
      if (text[at] == ',') {
        if (at + 1 >= text.size() || text[at + 1] != ',') break;
        ++at;
      }
      part += text[at];
    }
    ++at;
    const size_t equals = part.find('=');
    std::string key = part.substr(0, equals),
                value = equals == std::string::npos ? "on" : part.substr(equals + 1);
    if (equals == std::string::npos && first && !implied.empty()) {
      value = key;
      key = implied;
    }
    first = false;
    if (key.empty())
      return Error(ErrorKind::kInvalidArgument, fmt::format("'{}': an option has no name", text));
    flat[key] = value;
  }
  return nest_options(flat);
}

}  // namespace ostler::block
