// -blockdev and -object.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "config/block_node.h"
#include "config/object_types.h"
#include "config/property.h"
#include "config/qemu_builder.h"

namespace ostler::config {
namespace {

using nlohmann::json;

// Names that begin with another character are the program's own.
bool well_formed(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return !name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
    return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  });
}

constexpr std::string_view kNameRule = "is not a name: a letter, then letters, digits, '-', '.' and '_'";

}  // namespace

Result<BlockNode> block_node(std::string_view text, std::string origin) {
  BlockNode node;
  node.origin = std::move(origin);
  json options = json::parse(text, nullptr, false);
  if (!options.is_object())
    return Error(ErrorKind::kInvalidArgument, node.origin + ": not a JSON object of settings");
  const auto error = [&](std::string_view key, std::string_view message) {
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}: {}", node.origin, key, message));
  };
  if (!options.contains("driver")) return error("driver", "is missing");
  const auto name = options.find("node-name");
  if (name == options.end() || !name->is_string())
    return error("node-name", "is missing: nothing could refer to this node");
  node.name = name->get<std::string>();
  if (!well_formed(node.name)) return error("node-name", fmt::format("'{}' {}", node.name, kNameRule));
  node.options = options.dump(-1, ' ', false, json::error_handler_t::replace);
  return node;
}

Result<void> option_blockdev(QemuBuilder& b, std::string_view value) {
  std::string options(value);
  if (!value.starts_with('{')) {
    json object = json::object();
    TRY_ASSIGN(auto keys, KeyValues::parse("-blockdev", value, "driver"));
    for (auto& [key, text] : keys.take_rest()) object[key] = std::move(text);
    options = object.dump(-1, ' ', false, json::error_handler_t::replace);
  }
  TRY_ASSIGN(BlockNode node, block_node(options, fmt::format("-blockdev {}", value)));
  b.machine().block_nodes.push_back(std::move(node));
  return {};
}

Result<void> option_object(QemuBuilder& b, std::string_view value) {
  TRY_ASSIGN(auto keys, KeyValues::parse_either("-object", value, "qom-type"));
  Object object;
  object.origin = keys.origin();
  const auto type = keys.take("qom-type");
  if (!type) return keys.error("qom-type", "is missing");
  const auto help = [&](std::string subject) -> Result<void> {
    b.out.action = CommandLine::Action::kObjectHelp;
    b.out.subject = std::move(subject);
    return {};
  };
  if (*type == "help" || *type == "?") return help({});
  object.type = *type;
  const ObjectType* const known = find_object_type(object.type);
  if (known == nullptr) {
    std::vector<std::string_view> names;
    for (const ObjectType& each : kObjectTypes) names.push_back(each.name);
    return keys.error("qom-type",
                      fmt::format("'{}' is not available in this version; there are {}{}", object.type,
                                  fmt::join(names, ", "), suggestion(object.type, names)));
  }
  if (keys.take("help") || keys.take("?")) return help(object.type);
  const auto id = keys.take("id");
  if (!id) return keys.error("id", "is missing: nothing could refer to this object");
  object.id = *id;
  if (!well_formed(object.id)) return keys.error("id", fmt::format("'{}' {}", object.id, kNameRule));
  for (const auto* const list : {&b.machine().objects, &b.machine().filters})
    for (const Object& other : *list)
      if (other.id == object.id)
        return keys.error("id", fmt::format("'{}' is taken by another object", object.id));
  object.properties = keys.take_rest();
  auto& list = known->use == ObjectUse::kNetworks ? b.machine().filters : b.machine().objects;
  list.push_back(std::move(object));
  return {};
}

}  // namespace ostler::config
