#include "config/qemu_set_option.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/suggest.h"
#include "config/property.h"

namespace ostler::config {
namespace {

constexpr std::string_view kGroups[] = {"chardev", "device", "drive", "fsdev", "netdev", "object"};

// What split_options() takes as one value.
std::string escaped(std::string_view value) {
  std::string text;
  for (const char each : value) text.append(each == ',' ? 2 : 1, each);
  return text;
}

bool has_id(std::string_view option, std::string_view id) {
  if (option.starts_with('{')) return false;
  const auto pairs = split_options(option, "driver");
  return std::ranges::any_of(pairs,
                             [&](const KeyValue& pair) { return pair.key == "id" && pair.value == id; });
}

}  // namespace

Result<void> add_setting(std::span<const WrittenOption> before, std::string_view setting) {
  const auto wrong = [&](std::string text) {
    return Error(ErrorKind::kInvalidArgument, fmt::format("-set {}: {}", setting, text));
  };
  const size_t equals = setting.find('=');
  const std::string_view path = setting.substr(0, equals);
  const size_t group_end = path.find('.');
  const size_t id_end = group_end == std::string_view::npos ? group_end : path.find('.', group_end + 1);
  if (equals == std::string_view::npos || id_end == std::string_view::npos || id_end + 1 == path.size())
    return wrong("is not GROUP.ID.KEY=VALUE (example: device.net0.mac=52:54:00:12:34:56)");
  const std::string_view group = path.substr(0, group_end);
  const std::string_view id = path.substr(group_end + 1, id_end - group_end - 1);
  if (std::find(std::begin(kGroups), std::end(kGroups), group) == std::end(kGroups))
    return wrong(fmt::format("there is no group '{}'; there are {}{}", group, fmt::join(kGroups, ", "),
                             suggestion(group, kGroups)));
  const auto of_it = [&](const WrittenOption& option) {
    return option.name == group && has_id(*option.value, id);
  };
  const auto found = std::find_if(before.begin(), before.end(), of_it);
  if (found == before.end())
    return wrong(fmt::format(
        "there is no -{} with id={} before it (those in JSON have all their settings there)", group, id));
  *found->value += fmt::format(",{}={}", path.substr(id_end + 1), escaped(setting.substr(equals + 1)));
  return {};
}

}  // namespace ostler::config
